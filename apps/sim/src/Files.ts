import { existsSync, readFileSync, statSync } from "node:fs"
import { dirname, isAbsolute, resolve } from "node:path"
import { fileURLToPath } from "node:url"
import { gunzipSync } from "node:zlib"
import type { ReadText } from "@uniprefill/simulator/scenario/Build"
import { UsageError } from "./UsageError.ts"

/** What ships with the simulator, by the name that scenarios use. */
const shipped: Readonly<Record<string, string>> = {
  "mooncake-conversation-slice": "@uniprefill/simulator/traces/mooncake-conversation-slice.jsonl",
}

/** A larger file is refused: as one string it would not fit. */
const maxFileBytes = 500_000_000

/** Reads text files, `.gz` ones too; relative names are looked up in `folder`, then where the command runs. */
export const fileReader =
  (folder: string): ReadText =>
  (name) => {
    const file = locate(folder, name)
    try {
      const { size } = statSync(file)
      if (size > maxFileBytes) throw new UsageError(`${name} has ${size} bytes; files up to ${maxFileBytes} are read`)
      const bytes = readFileSync(file)
      return file.endsWith(".gz")
        ? gunzipSync(bytes, { maxOutputLength: maxFileBytes }).toString("utf8")
        : bytes.toString("utf8")
    } catch (error) {
      if (error instanceof UsageError) throw error
      throw new UsageError(`${name}: cannot be read: ${(error as Error).message}`)
    }
  }

/** Whether a name is of what ships with the simulator. */
export const isShipped = (name: string): boolean => shipped[name] !== undefined

/** Where a file that a scenario names is: beside the scenario, else where the command runs. */
export const locate = (folder: string, name: string): string => {
  const specifier = shipped[name]
  if (specifier !== undefined) return fileURLToPath(import.meta.resolve(specifier))
  if (isAbsolute(name)) return name
  const beside = resolve(folder, name)
  return existsSync(beside) ? beside : resolve(name)
}

export const folderOf = (file: string): string => dirname(resolve(file))
