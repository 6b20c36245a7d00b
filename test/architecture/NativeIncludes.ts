import { readFileSync } from "node:fs"
import { join, posix } from "node:path"
import { committedFiles } from "./CommittedText.ts"
import type { Violation } from "./Violation.ts"

/**
 * What the folders of native/src may include beside themselves. Plans and the layer loop know a backend by its interface alone,
 * and no backend knows of plans: that is what lets one runner serve them all.
 */
export const nativeFolders: Readonly<Record<string, ReadonlyArray<string>>> = {
  plan: ["abi", "backend.h", "memory", "sampling", "selection"],
  step: ["abi", "backend.h", "parallel", "plan", "selection"],
  cpu: ["abi", "backend.h", "memory", "sampling", "selection", "weights"],
  cuda: ["abi", "backend.h", "device_backend.h", "operators", "parallel", "selection", "weights"],
  reference: ["abi", "backend.h", "sampling", "selection", "weights"],
}

const source = "native/src"
const include = /^\s*#\s*include\s*"([^"]+)"/

/** Text of every source file of native/src that git tracks or would add, by its path. */
export const nativeSources = (root: string): Map<string, string> => {
  const files = committedFiles(root).filter((file) => file.startsWith(`${source}/`) && /\.(h|cpp|cu|cuh)$/.test(file))
  return new Map(files.map((file) => [file, readFileSync(join(root, file), "utf8")]))
}

/** Includes that point where they must not. */
export const checkNativeIncludes = (sources: ReadonlyMap<string, string>): ReadonlyArray<Violation> =>
  [...sources].flatMap(([file, text]) => {
    const folder = folderOf(file)
    const allowed = nativeFolders[folder]
    if (allowed === undefined) return []
    return text.split("\n").flatMap((line, at): ReadonlyArray<Violation> => {
      const name = include.exec(line)?.[1]
      if (name === undefined || name.startsWith("uniprefill/")) return []
      const beside = posix.join(posix.dirname(file), name)
      const owner = folderOf(sources.has(beside) || name.startsWith(".") ? beside : posix.join(source, name))
      if (owner === folder || allowed.includes(owner)) return []
      const message = `${folder}/ includes ${name}; it may include ${[folder, ...allowed].join(", ")}`
      return [{ rule: "native-include", file, line: at + 1, message }]
    })
  })

/** The folder of native/src that a file is in, or the file itself at the top. */
const folderOf = (file: string): string => posix.relative(source, file).split("/")[0]!
