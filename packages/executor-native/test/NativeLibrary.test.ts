import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { expect, test } from "vitest"
import { abiVersion, adviceFor, libraryPath, loadLibrary } from "@uniprefill/executor-native/NativeLibrary"

test("the library is found in native/build unless UNIPREFILL_NATIVE names another", () => {
  expect(libraryPath({})).toMatch(/native\/build\/uniprefill\.node$/)
  expect(libraryPath({ UNIPREFILL_NATIVE: "/opt/uniprefill.node" })).toBe("/opt/uniprefill.node")
})

test("a missing library says how to build it", () => {
  expect(() => loadLibrary("/nonexistent/uniprefill.node")).toThrow(
    "/nonexistent/uniprefill.node: no such file; build it with `node native/build.mjs`",
  )
})

test("where there is no library for a platform, one line says what to do there", () => {
  const advice = (os: string, cpu: string, libc: string) => adviceFor({ os, cpu, libc })
  expect(advice("linux", "x64", "glibc")).toMatch(/native-linux-x64 is not installed: .*--omit=optional$/)
  expect(advice("linux", "x64", "musl")).toMatch(/is for glibc, this system has musl: build it .*UNIPREFILL_NATIVE$/)
  expect(advice("linux", "arm64", "glibc")).toMatch(/none for linux-arm64: .*--executor sim/)
  expect(advice("darwin", "arm64", "")).toMatch(/none for darwin-arm64: .*--executor sim/)
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

test("a library of another ABI is refused with both numbers, and with which of the two to install again", () => {
  const directory = mkdtempSync(join(tmpdir(), "uniprefill-native-"))
  try {
    const load = (found: number) => {
      const file = join(directory, `${found}.cjs`)
      writeFileSync(file, `module.exports = { abiVersion: ${found} }`)
      return () => loadLibrary(file)
    }
    const numbers = (found: number) => `its ABI version is ${found}, this package needs ${abiVersion}`
    expect(load(abiVersion - 1)).toThrow(`${numbers(abiVersion - 1)}: build or install the library again`)
    expect(load(abiVersion + 1)).toThrow(`${numbers(abiVersion + 1)}: install the packages again`)
  } finally {
    rmSync(directory, { recursive: true })
  }
})

test("wrong types are refused by field", () => {
  const library = loadLibrary()
  expect(() => library.open(3 as never)).toThrow("table: a string was expected")
})
