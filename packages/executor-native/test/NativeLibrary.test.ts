import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { expect, test } from "vitest"
import { libraryPath, loadLibrary } from "@uniprefill/executor-native/NativeLibrary"

test("the library is found in native/build unless UNIPREFILL_NATIVE names another", () => {
  expect(libraryPath({})).toMatch(/native\/build\/uniprefill\.node$/)
  expect(libraryPath({ UNIPREFILL_NATIVE: "/opt/uniprefill.node" })).toBe("/opt/uniprefill.node")
})

test("a missing library says how to build it", () => {
  expect(() => loadLibrary("/nonexistent/uniprefill.node")).toThrow(
    "/nonexistent/uniprefill.node: no such file; build it with `node native/build.mjs`",
  )
})

test("a file that is no library is named", () => {
  const directory = mkdtempSync(join(tmpdir(), "uniprefill-native-"))
  try {
    const file = join(directory, "broken.node")
    writeFileSync(file, "not a library")
    expect(() => loadLibrary(file)).toThrow(file)
  } finally {
    rmSync(directory, { recursive: true })
  }
})

test("wrong types are refused by field", () => {
  const library = loadLibrary()
  expect(() => library.open(3 as never)).toThrow("table: a string was expected")
})
