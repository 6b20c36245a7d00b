import { createHash } from "node:crypto"
import * as fs from "node:fs"
import { run } from "./Child.mjs"
import { measure, readJson, readText, writeJson } from "./FileTree.mjs"
import { locked } from "./Lock.mjs"
import { inRoot } from "./Paths.mjs"
import { npmCommand } from "./Runtime.mjs"
import { Failure, task } from "./Terminal.mjs"

/**
 * Installed packages, kept equal to package-lock.json.
 *
 * After an installation the stamp records the lockfile's digest and the number of files and bytes of every package, so a
 * later run sees in a fraction of a second whether anything was changed, removed or cut short.
 */

const lockfile = inRoot("package-lock.json")
const stampFile = inRoot("node_modules/.uniprefill-install.json")

/**
 * @typedef {object} LockedPackage
 * @property {string} [version]
 * @property {string} [integrity]
 * @property {string} [resolved]
 * @property {boolean} [link]
 * @property {boolean} [optional]
 * @property {string | string[]} [os]
 * @property {string | string[]} [cpu]
 * @property {string | string[]} [libc]
 * @property {Record<string, string>} [bin]
 */

const libc = () => {
  const report = /** @type {any} */ (process.report)
  report.excludeNetwork = true
  return process.platform !== "linux" ? "" : report.getReport().header.glibcVersionRuntime ? "glibc" : "musl"
}

/**
 * Whether a package is made for this platform in particular. Other optional packages may be absent rightly: they may
 * belong to one that is for another platform.
 *
 * @param {LockedPackage} entry
 */
const isForThisPlatform = (entry) => {
  const allows = (/** @type {string | string[] | undefined} */ list, /** @type {string} */ value) =>
    list === undefined || [list].flat().includes(value)
  return (
    (entry.os !== undefined || entry.cpu !== undefined) &&
    allows(entry.os, process.platform) &&
    allows(entry.cpu, process.arch) &&
    (entry.libc === undefined || allows(entry.libc, libc()))
  )
}

/**
 * What npm has unpacked, by its own account, against the lockfile: the packages that should be there, or undefined when
 * they are not. npm writes that account last, so an interrupted installation has none.
 *
 * @param {Record<string, LockedPackage>} wanted
 */
const installedPackages = (wanted) => {
  const account = readJson(inRoot("node_modules/.package-lock.json"))
  if (account === undefined) return undefined
  const present = []
  for (const [place, entry] of Object.entries(wanted)) {
    if (!place.includes("node_modules/") || entry.link) continue
    const found = account.packages[place]
    if (found === undefined && entry.optional && !isForThisPlatform(entry)) continue
    if (found === undefined || found.version !== entry.version || found.integrity !== entry.integrity) return undefined
    if (!fs.existsSync(inRoot(place, "package.json"))) return undefined
    present.push(place)
  }
  return present
}

/** @param {Record<string, LockedPackage>} wanted */
const linksAreWhole = (wanted) =>
  Object.entries(wanted).every(([place, entry]) => {
    if (entry.link) return fs.existsSync(inRoot(place))
    if (!/^node_modules\/(@[^/]+\/)?[^/]+$/.test(place) || !fs.existsSync(inRoot(place))) return true
    return Object.keys(entry.bin || {}).every((name) => fs.existsSync(inRoot("node_modules/.bin", name)))
  })

/** @type {(a: string, b: string) => number} */
const compare = (a, b) => (a < b ? -1 : 1)

const dependencyFields = ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"]

/**
 * Whether every workspace's package.json says what the lockfile says of it, and every workspace is in it.
 *
 * @param {Record<string, any>} wanted
 */
export const manifestsAreLocked = (wanted) => {
  const rootManifest = readJson(inRoot("package.json"))
  const folders = [""]
  for (const pattern of rootManifest.workspaces) {
    if (!pattern.endsWith("/*")) folders.push(pattern)
    else
      for (const name of fs.readdirSync(inRoot(pattern.slice(0, -2)))) folders.push(`${pattern.slice(0, -2)}/${name}`)
  }
  return folders.every((folder) => {
    const manifest = readJson(inRoot(folder, "package.json"))
    if (manifest === undefined) return true
    const entry = wanted[folder]
    return (
      entry !== undefined &&
      dependencyFields.every((field) => {
        const sorted = (/** @type {Record<string, string> | undefined} */ map) =>
          JSON.stringify(
            Object.entries(map || {})
              .map(String)
              .sort(compare),
          )
        return sorted(manifest[field]) === sorted(entry[field])
      })
    )
  })
}

/** Files of one package, without packages nested in it. */
const measurePackage = (/** @type {string} */ place) => measure(inRoot(place), (name) => name === "node_modules")

const digestOfLockfile = () => createHash("sha256").update(readText(lockfile)).digest("hex")

/** @param {string[]} places */
const writeStamp = (places) =>
  writeJson(stampFile, {
    lockfile: digestOfLockfile(),
    packages: Object.fromEntries(places.map((place) => [place, measurePackage(place)])),
  })

/** Whether everything that the lockfile asks for is there and whole. An installation made by hand is taken as it is. */
const isCurrent = () => {
  const wanted = readJson(lockfile)?.packages
  if (wanted === undefined)
    throw new Failure("package-lock.json is missing or damaged", "Restore it: git checkout package-lock.json")
  if (!manifestsAreLocked(wanted) || !linksAreWhole(wanted)) return false
  const stamp = readJson(stampFile)
  if (stamp !== undefined && stamp.lockfile === digestOfLockfile()) {
    return Object.entries(stamp.packages).every(([place, measured]) => measurePackage(place) === measured)
  }
  const places = installedPackages(wanted)
  if (places !== undefined) writeStamp(places)
  return places !== undefined
}

const install = async () => {
  const [command, first] = npmCommand()
  const options = ["--include=dev", "--include=optional", "--loglevel=error", "--no-audit", "--no-fund"]
  const { code, output } = await run(command, [...first, "ci", ...options], { onLine: () => {} })
  if (code !== 0) {
    const withoutUsage = output.split("npm error Clean install a project")[0] || ""
    throw new Failure(
      `npm ci failed with exit code ${code}:\n${withoutUsage.replace(/(\s*npm error)?\s*$/, "")}`,
      "If the registry could not be reached, check the network and run the command again: it picks up where this one " +
        "stopped.\nIf npm says that package.json and package-lock.json differ, run `npm install` and commit the lockfile.",
    )
  }
  const wanted = readJson(lockfile).packages
  const places = Object.keys(wanted).filter(
    (place) => place.includes("node_modules/") && !wanted[place].link && fs.existsSync(inRoot(place, "package.json")),
  )
  writeStamp(places)
}

/** Installs the packages unless they are all there and whole. */
export const ensureInstalled = () =>
  locked(async () => {
    if (isCurrent()) return
    const again = fs.existsSync(inRoot("node_modules"))
    await task(
      again ? "Reinstalling packages (the installation is incomplete or out of date)" : "Installing packages",
      install,
    )
  })
