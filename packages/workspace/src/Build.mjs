import * as fs from "node:fs"
import { run } from "./Child.mjs"
import { measure, readJson, signature, writeJson } from "./FileTree.mjs"
import { locked } from "./Lock.mjs"
import { cacheFolder, inRoot } from "./Paths.mjs"
import { runtimeNode } from "./Runtime.mjs"
import { Failure, task } from "./Terminal.mjs"

/**
 * Built TypeScript and native code, kept equal to their sources.
 *
 * The stamp records the names, sizes and times of all inputs and the number and bytes of all outputs after a build. Equal
 * to what is there now: nothing to do, and turbo is not even started. Otherwise turbo rebuilds what changed.
 */

const stampFile = `${cacheFolder}/build.json`

/** Folders in `packages/*` and `apps/*` that are no part of what they build. */
const notInput = new Set(["dist", "build", ".turbo", "node_modules", "test"])

/** @returns {{ typescript: string[]; native: string }} Folders whose package.json has a build script. */
const workspaces = () => ({
  typescript: ["packages", "apps"].flatMap((group) =>
    fs
      .readdirSync(inRoot(group))
      .map((name) => inRoot(group, name))
      .filter((folder) => readJson(`${folder}/package.json`)?.scripts?.build !== undefined),
  ),
  native: inRoot("native"),
})

const inputs = () => {
  const { typescript, native } = workspaces()
  const shared = ["package-lock.json", "tsconfig.base.json", "turbo.json"].map((name) => inRoot(name))
  return (
    signature([...typescript, ...shared], (name) => notInput.has(name)) +
    signature([native], (name) => name === "build" || name === ".turbo")
  )
}

/** What is loaded at run time: emitted modules with their types, shared libraries and the addon. */
const outputs = () => {
  const { typescript, native } = workspaces()
  const isOther = (/** @type {RegExp} */ wanted) => (/** @type {string} */ name, /** @type {string} */ file) =>
    !wanted.test(name) && !fs.lstatSync(file).isDirectory()
  const isLibrary = isOther(/(\.node|\.so(\.\d+)*)$/)
  return [
    ...typescript.map((folder) => measure(`${folder}/dist`, isOther(/\.(js|ts)$/))),
    // What `npm test` builds under sanitizers lies in there too, and is not what a build makes.
    measure(`${native}/build`, (name, file) => name === "sanitize" || isLibrary(name, file)),
  ].join(" ")
}

const removeOutputs = () => {
  const { typescript, native } = workspaces()
  for (const folder of [...typescript.map((each) => `${each}/dist`), `${native}/build`]) {
    fs.rmSync(folder, { recursive: true, force: true })
  }
}

/**
 * What the failed tasks said, without turbo's and npm's own words; everything where no task is named.
 *
 * @param {string} output
 */
export const failureLines = (output) => {
  const failed = (/^ *Failed: *(.*)$/m.exec(output) || [])[1] || ""
  const prefixes = failed.split(/,\s*/).map((name) => `${name.replace("#", ":")}: `)
  const lines = output.split("\n").flatMap((line) => {
    const prefix = prefixes.find((each) => line.startsWith(each))
    return prefix === undefined ? [] : [line.slice(prefix.length)]
  })
  const own = lines.filter((line) => !/^(npm (warn|error)|> |cache (miss|hit|bypass))|^\s*$/.test(line))
  return own.length > 0 ? `${failed}\n${own.join("\n")}` : output.trim()
}

/**
 * @param {readonly string[]} filters
 * @param {(line: string) => void} latest
 */
const turbo = async (filters, latest) => {
  const fixed = ["run", "build", "--output-logs=full", "--log-prefix=task", "--no-color"]
  const args = [inRoot("node_modules/turbo/bin/turbo"), ...fixed, ...filters]
  const { code, output } = await run(runtimeNode(), args, { onLine: latest })
  if (code !== 0) throw new Failure(`the build failed in ${failureLines(output)}`)
}

/** @param {(line: string) => void} latest */
const build = async (latest) => {
  const before = inputs()
  const stamp = readJson(stampFile)
  // A killed build and damaged outputs can both look finished to incremental compilers.
  if (stamp?.state === "building" || (stamp?.inputs === before && stamp.outputs !== outputs())) {
    removeOutputs()
  }
  writeJson(stampFile, { state: "building" })
  try {
    await turbo([], latest)
  } catch (error) {
    writeJson(stampFile, { state: "failed" })
    throw error
  }
  writeJson(stampFile, { state: "done", inputs: before, outputs: outputs() })
}

/** Builds what is missing or out of date. */
export const ensureBuilt = () =>
  locked(async () => {
    const stamp = readJson(stampFile)
    if (stamp?.state === "done" && stamp.inputs === inputs() && stamp.outputs === outputs()) return
    await task("Building TypeScript and native code", build)
  })

/**
 * Builds one workspace and what it depends on, and no more: what it does not need may not even build here.
 *
 * @param {string} name
 */
export const ensureOneBuilt = (name) =>
  locked(() => task(`Building ${name}`, (latest) => turbo([`--filter=${name}`], latest)))
