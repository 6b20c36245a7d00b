import { createHash } from "node:crypto"
import * as fs from "node:fs"
import * as path from "node:path"

/**
 * Calls `visit` with each file below a folder, in a fixed order. Links are not followed; a folder that is not there is
 * empty.
 *
 * @param {string} folder
 * @param {(file: string, stat: fs.Stats) => void} visit
 * @param {(name: string, file: string) => boolean} [skip] Leaves out a file or a whole folder.
 */
export const walk = (folder, visit, skip = () => false) => {
  /** @type {fs.Dirent[]} */
  let entries
  try {
    entries = fs.readdirSync(folder, { withFileTypes: true })
  } catch {
    return
  }
  entries.sort((a, b) => (a.name < b.name ? -1 : 1))
  for (const entry of entries) {
    const file = path.join(folder, entry.name)
    if (skip(entry.name, file)) continue
    if (entry.isDirectory()) walk(file, visit, skip)
    else if (entry.isFile()) visit(file, fs.lstatSync(file))
  }
}

/**
 * Number and bytes of the files below a folder, `files/bytes`: enough to see that something is missing or cut short.
 *
 * @param {string} folder
 * @param {(name: string, file: string) => boolean} [skip]
 */
export const measure = (folder, skip) => {
  let files = 0
  let bytes = 0
  walk(
    folder,
    (_, stat) => {
      files++
      bytes += stat.size
    },
    skip,
  )
  return `${files}/${bytes}`
}

/**
 * A digest of the names, sizes and modification times of files: equal when nothing was edited.
 *
 * @param {readonly string[]} places Files or folders.
 * @param {(name: string, file: string) => boolean} skip
 */
export const signature = (places, skip) => {
  const hash = createHash("sha256")
  for (const place of places) {
    const stat = fs.statSync(place, { throwIfNoEntry: false })
    if (stat === undefined) continue
    if (stat.isDirectory())
      walk(place, (file, { size, mtimeMs }) => hash.update(`${file}\0${size}\0${mtimeMs}\n`), skip)
    else hash.update(`${place}\0${stat.size}\0${stat.mtimeMs}\n`)
  }
  return hash.digest("hex")
}

/** @param {string} file */
export const readText = (file) => fs.readFileSync(file, "utf8")

/**
 * A JSON file, or undefined where it is missing or cut short.
 *
 * @param {string} file
 * @returns {any}
 */
export const readJson = (file) => {
  try {
    return JSON.parse(readText(file))
  } catch {
    return undefined
  }
}

/**
 * @param {string} file
 * @param {unknown} value
 */
export const writeJson = (file, value) => {
  fs.mkdirSync(path.dirname(file), { recursive: true })
  fs.writeFileSync(`${file}.new`, `${JSON.stringify(value, null, 2)}\n`)
  fs.renameSync(`${file}.new`, file)
}
