import { accessSync, constants, statSync, writeFileSync } from "node:fs"
import { dirname, resolve } from "node:path"
import { Option } from "effect"
import { UsageError } from "./UsageError.ts"

/** A file that a command may have been asked to write; `-` is standard output. */
export type OutputFile = Option.Option<string>

/**
 * Fails with UsageError where a file could not be written: said before a long run, not after it. Where one of them is
 * standard output, what is said for people goes to standard error.
 */
export const checkWritable = (...files: ReadonlyArray<OutputFile>): void => {
  const toOutput = files.filter((file) => Option.isSome(file) && file.value === "-").length
  if (toOutput > 1) throw new UsageError("-: only one result fits on standard output")
  if (toOutput === 1) console.log = console.error
  for (const file of files) {
    if (Option.isNone(file) || file.value === "-") continue
    attempt(file.value, () => {
      const found = statSync(file.value, { throwIfNoEntry: false })
      if (found?.isDirectory() === true) throw new Error("it is a folder")
      accessSync(found === undefined ? dirname(resolve(file.value)) : file.value, constants.W_OK)
    })
  }
}

/** Writes what was asked for and says so; the text is made only then. Fails with UsageError. */
export const writeOutput = (file: OutputFile, text: () => string): void => {
  if (Option.isNone(file)) return
  const made = text()
  if (file.value === "-") return void process.stdout.write(made)
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
