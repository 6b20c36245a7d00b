import { createHash } from "node:crypto"
import * as fs from "node:fs"
import { run } from "./Child.mjs"
import { measure, readJson, readText, writeJson } from "./FileTree.mjs"
import { locked } from "./Lock.mjs"
import { inRoot, workspaceFolders } from "./Paths.mjs"
import { npmCommand } from "./Runtime.mjs"
import { Failure, task } from "./Terminal.mjs"

/**
 * Installed packages, kept equal to package-lock.json.
 *
 * `npm ci` does the work but always begins anew, so a stamp says when it need not be called: what the manifests and the
 * lockfile were after an installation, and the number and bytes of the files that it brought.
 */

const stampFile = inRoot("node_modules/.uniprefill-install.json")

/** The manifests and the lockfile, and what is installed of them. */
const current = () => {
  const asked = createHash("sha256")
  for (const folder of ["", ...workspaceFolders()]) asked.update(readText(inRoot(folder, "package.json")))
  asked.update(readText(inRoot("package-lock.json")))
  const installed = ["", ...workspaceFolders()].map((folder) =>
    // Tools keep caches in folders whose names begin with a dot.
    measure(inRoot(folder, "node_modules"), (name) => name.startsWith(".")),
  )
  return { asked: asked.digest("hex"), installed: installed.join(" ") }
}

/** @param {string} first @param {readonly string[]} args */
const npm = (first, args) => {
  const [command, before] = npmCommand()
  return run(command, [...before, first, ...args], { onLine: () => {} })
}

/** Whether an installation made by hand is what the lockfile asks for. npm writes its own account of one last. */
const isWholeByHand = async () =>
  fs.existsSync(inRoot("node_modules/.package-lock.json")) && (await npm("ls", ["--all"])).code === 0

const install = async () => {
  const options = ["--include=dev", "--include=optional", "--loglevel=error", "--no-audit", "--no-fund"]
  const { code, output } = await npm("ci", options)
  if (code === 0) return
  const withoutUsage = output.split("npm error Clean install a project")[0] || ""
  throw new Failure(
    `npm ci failed with exit code ${code}:\n${withoutUsage.replace(/(\s*npm error)?\s*$/, "")}`,
    "If the registry could not be reached, check the network and run the command again: it picks up where this one " +
      "stopped.\nIf npm says that package.json and package-lock.json differ, run `npm install` and commit the lockfile.",
  )
}

/** Installs the packages unless they are all there and whole. */
export const ensureInstalled = () =>
  locked(async () => {
    if (readJson(inRoot("package-lock.json")) === undefined)
      throw new Failure("package-lock.json is missing or damaged", "Restore it: git checkout package-lock.json")
    const stamp = readJson(stampFile)
    const { asked, installed } = current()
    if (stamp?.asked === asked && stamp.installed === installed) return
    if (stamp !== undefined || !(await isWholeByHand())) {
      const again = fs.existsSync(inRoot("node_modules"))
      await task(
        again ? "Reinstalling packages (the installation is incomplete or out of date)" : "Installing packages",
        install,
      )
    }
    writeJson(stampFile, current())
  })
