import * as fs from "node:fs"
import * as path from "node:path"
import { fileURLToPath } from "node:url"

/** The repository's root folder. */
export const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../../..")

/** What these scripts remember between runs; ignored by git, safe to delete. */
export const cacheFolder = path.join(root, ".cache")

/** @param {string[]} parts */
export const inRoot = (...parts) => path.join(root, ...parts)

/** The workspaces of package.json, relative to the root. */
export const workspaceFolders = () =>
  [
    ...["packages", "apps"].flatMap((group) => fs.readdirSync(inRoot(group)).map((name) => `${group}/${name}`)),
    "native",
  ].filter((folder) => fs.existsSync(inRoot(folder, "package.json")))
