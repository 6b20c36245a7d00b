import { accessSync, constants, statSync, writeFileSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { Option } from "effect"
import { UsageError } from "./UsageError.ts"

/** A file that a command may have been asked to write. */
export type OutputFile = Option.Option<string>

/** Fails with UsageError where a file could not be written: said before a long run, not after it. */
export const checkWritable = (...files: ReadonlyArray<OutputFile>): void => {
  for (const file of files) {
    if (Option.isNone(file)) continue
    attempt(file.value, () => {
      accessSync(dirname(resolve(file.value)), constants.W_OK)
      if (statSync(file.value, { throwIfNoEntry: false })?.isDirectory() === true) throw new Error("it is a folder")
    })
  }
}

/** Writes what was asked for and says so; the text is made only then. Fails with UsageError. */
export const writeOutput = (file: OutputFile, text: () => string): void => {
  if (Option.isNone(file)) return
  const made = text()
  attempt(file.value, () => writeFileSync(file.value, made))
  console.log(`wrote ${file.value}`)
}

const attempt = (name: string, act: () => void): void => {
  try {
    act()
  } catch (error) {
    throw new UsageError(`${name}: cannot be written: ${(error as Error).message}`)
  }
}
