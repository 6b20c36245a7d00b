import { spawnSync } from "node:child_process"
import * as fs from "node:fs"
import * as path from "node:path"
import { run } from "./Child.mjs"
import { readJson, writeJson } from "./FileTree.mjs"
import { inRoot, workspaceFolders } from "./Paths.mjs"
import { npmCommand } from "./Runtime.mjs"
import { Failure } from "./Terminal.mjs"

/**
 * What is published, as tarballs: every workspace that is not private, and the native library as a package for this platform.
 *
 * Each package is staged in a folder of its own, from what is built, and packed there by npm. The staged manifest differs
 * from the one in the repository where a user's needs differ from a developer's: no scripts, no entry for sources (Node runs
 * no TypeScript below node_modules), the prebuilt library as an optional dependency of the package that loads it.
 */

/** The package that loads the native library, and so asks for the prebuilt one. */
const loader = "@uniprefill/executor-native"

/**
 * @typedef {object} PackedFile
 * @property {string} path Below the package's root.
 * @property {number} size
 *
 * @typedef {object} PackedPackage
 * @property {string} name
 * @property {string} version
 * @property {string} filename Of the tarball, in the folder that was asked for.
 * @property {number} size Of the tarball, in bytes.
 * @property {number} unpackedSize
 * @property {PackedFile[]} files
 */

/** Folders of the workspaces that are published. */
const publishedFolders = () =>
  workspaceFolders()
    .map((folder) => inRoot(folder))
    .filter((folder) => readJson(`${folder}/package.json`).private !== true)

/** The manifest of the package with the native library for this platform. */
const prebuiltManifest = () => readJson(inRoot("native/prebuilt/package.json"))

const isForThisPlatform = () => {
  const { os, cpu } = prebuiltManifest()
  return os.includes(process.platform) && cpu.includes(process.arch)
}

/**
 * Without the condition by which the repository's own tools read TypeScript.
 *
 * @param {unknown} exports
 * @returns {unknown}
 */
const withoutSource = (exports) => {
  if (typeof exports !== "object" || exports === null) return exports
  const entries = Object.entries(exports).filter(([key]) => key !== "source")
  return Object.fromEntries(entries.map(([key, value]) => [key, withoutSource(value)]))
}

/**
 * The manifest of a package as it is published.
 *
 * @param {Record<string, any>} manifest
 */
const publishedManifest = (manifest) => {
  const { scripts: _scripts, devDependencies: _devDependencies, exports, ...rest } = manifest
  const { name, version } = prebuiltManifest()
  return {
    ...rest,
    ...(exports === undefined ? {} : { exports: withoutSource(exports) }),
    ...(manifest.name === loader ? { optionalDependencies: { [name]: version } } : {}),
    publishConfig: { access: "public" },
  }
}

/** Emitted modules whose source is gone stay in `dist` until somebody cleans it. */
const isStale = (/** @type {string} */ folder, /** @type {string} */ file) => {
  const emitted = /^dist\/(.*?)\.(?:d\.ts|js)(?:\.map)?$/.exec(path.relative(folder, file))
  return emitted !== null && !fs.existsSync(`${folder}/src/${emitted[1]}.ts`)
}

const leftOut = new Set(["node_modules", "test", ".turbo", ".tsbuildinfo", "tsconfig.json"])

/**
 * @param {string} folder
 * @param {string} stage
 */
const stagePackage = (folder, stage) => {
  fs.cpSync(folder, stage, {
    recursive: true,
    filter: (file) => !leftOut.has(path.basename(file)) && !isStale(folder, file),
  })
  writeJson(`${stage}/package.json`, publishedManifest(readJson(`${folder}/package.json`)))
  fs.copyFileSync(inRoot("LICENSE"), `${stage}/LICENSE`)
}

/**
 * The built library without debug information, and the OpenMP runtime beside it, which is found there first: machines
 * without a compiler have none.
 *
 * @param {string} stage
 */
const stagePrebuilt = async (stage) => {
  fs.cpSync(inRoot("native/prebuilt"), stage, { recursive: true })
  writeJson(`${stage}/package.json`, publishedManifest(prebuiltManifest()))
  fs.copyFileSync(inRoot("LICENSE"), `${stage}/LICENSE`)
  const install = ["--install", inRoot("native/build"), "--component", "prebuilt", "--strip", "--prefix", stage]
  const { code, output } = await run("cmake", install, { onLine: () => {} })
  if (code !== 0) throw new Failure(`cmake ${install.join(" ")} failed:\n${output.trim()}`)
  // A tarball of npm holds no links, and the loader asks for the name that the link has.
  for (const name of fs.readdirSync(`${stage}/lib`)) {
    const soname = /^(.*\.so\.\d+)\.\d+\.\d+$/.exec(name)
    if (soname === null) continue
    fs.rmSync(`${stage}/lib/${soname[1]}`, { force: true })
    fs.renameSync(`${stage}/lib/${name}`, `${stage}/lib/${soname[1]}`)
  }
  const compiler = process.env.CXX || "g++"
  const openMp = spawnSync(compiler, ["-print-file-name=libgomp.so.1"], { encoding: "utf8" }).stdout.trim()
  if (!path.isAbsolute(openMp)) throw new Failure(`${compiler} has no libgomp.so.1`)
  fs.copyFileSync(fs.realpathSync(openMp), `${stage}/lib/libgomp.so.1`)
}

/**
 * Runs npm in a folder with its output kept back.
 *
 * @param {string} folder
 * @param {string[]} args
 */
const npm = (folder, args) => {
  const [command, first] = npmCommand()
  const { status, stdout, stderr } = spawnSync(command, [...first, ...args], { cwd: folder, encoding: "utf8" })
  if (status !== 0) throw new Failure(`npm ${args.join(" ")} failed:\n${stderr}${stdout}`)
  return stdout
}

/**
 * Stages and packs every published package. Requires that everything is built.
 *
 * @param {string} folder For the tarballs, and `stage` in it for what is in them: `npm publish --workspaces` there publishes.
 * @returns {Promise<PackedPackage[]>}
 */
export const pack = async (folder) => {
  const stage = path.join(folder, "stage")
  fs.rmSync(folder, { recursive: true, force: true })
  fs.mkdirSync(stage, { recursive: true })
  const names = []
  for (const each of publishedFolders()) {
    names.push(path.basename(each))
    stagePackage(each, path.join(stage, path.basename(each)))
  }
  if (isForThisPlatform()) {
    names.push("native")
    await stagePrebuilt(path.join(stage, "native"))
  }
  writeJson(path.join(stage, "package.json"), { private: true, workspaces: names })
  const packed = JSON.parse(npm(stage, ["pack", "--workspaces", "--json", "--pack-destination", folder]))
  // npm 11 lists them, later ones name them.
  return Array.isArray(packed) ? packed : Object.values(packed)
}
