import * as fs from "node:fs"
import * as path from "node:path"

/**
 * Number and bytes of the files below a folder, `files/bytes`: enough to see that something is missing or cut short. Links
 * are not followed; a folder that is not there is empty.
 *
 * @param {string} folder
 * @param {(name: string) => boolean} skip Leaves out a file or a whole folder.
 */
export const measure = (folder, skip) => {
  let files = 0
  let bytes = 0
  const add = (/** @type {string} */ within) => {
    for (const entry of fs.readdirSync(within, { withFileTypes: true })) {
      const file = path.join(within, entry.name)
      if (skip(entry.name)) continue
      if (entry.isDirectory()) add(file)
      else if (entry.isFile()) {
        files++
        bytes += fs.lstatSync(file).size
      }
    }
  }
  if (fs.existsSync(folder)) add(folder)
  return `${files}/${bytes}`
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
