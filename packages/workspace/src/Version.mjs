import * as fs from "node:fs"
import { readJson, readText } from "./FileTree.mjs"
import { inRoot, workspaceFolders } from "./Paths.mjs"
import { Failure } from "./Terminal.mjs"

/**
 * One version for everything that is published, written in many files because npm, CMake and pip each read their own. The
 * root's package.json says it; the others are written from there.
 */

/** Every package.json of the repository, the root's first. */
export const manifestFiles = () => [
  "package.json",
  ...workspaceFolders().map((folder) => `${folder}/package.json`),
  "native/prebuilt/package.json",
]

const pythonProject = "native/python/pyproject.toml"

const dependencyFields = ["dependencies", "devDependencies", "optionalDependencies", "peerDependencies"]

/** @type {(name: string) => boolean} */
const isOurs = (name) => name === "uniprefill" || name.startsWith("@uniprefill/")

const pythonVersion = /^version = "([^"]*)"$/m

/**
 * The places that say another version than the root's package.json, as `FILE: what it says`.
 *
 * @returns {string[]}
 */
export const otherVersions = () => {
  const { version } = readJson(inRoot("package.json"))
  const found = manifestFiles().flatMap((file) => {
    const manifest = readJson(inRoot(file))
    const wrong = dependencyFields.flatMap((field) =>
      Object.entries(manifest[field] || {})
        .filter(([name, wanted]) => isOurs(name) && wanted !== version)
        .map(([name, wanted]) => `${file}: ${name} ${wanted}`),
    )
    return manifest.version === version ? wrong : [`${file}: ${manifest.version}`, ...wrong]
  })
  const inPython = (pythonVersion.exec(readText(inRoot(pythonProject))) || [])[1]
  return inPython === version ? found : [...found, `${pythonProject}: ${inPython}`]
}

/**
 * Writes a version everywhere. The lockfile follows with `npm install --package-lock-only`.
 *
 * @param {string} version
 */
export const setVersion = (version) => {
  if (!/^\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?$/.test(version)) {
    throw new Failure(`${version} is no version`, "Three numbers: npm run set-version -- 0.2.0")
  }
  for (const file of manifestFiles()) {
    const manifest = readJson(inRoot(file))
    manifest.version = version
    for (const field of dependencyFields) {
      for (const name of Object.keys(manifest[field] || {})) if (isOurs(name)) manifest[field][name] = version
    }
    fs.writeFileSync(inRoot(file), `${JSON.stringify(manifest, null, 2)}\n`)
  }
  const python = inRoot(pythonProject)
  fs.writeFileSync(python, readText(python).replace(pythonVersion, `version = "${version}"`))
}
