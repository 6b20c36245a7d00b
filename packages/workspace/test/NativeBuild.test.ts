import { execFileSync } from "node:child_process"
import { copyFileSync, mkdtempSync, rmSync, statSync, symlinkSync, truncateSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, beforeAll, expect, it } from "vitest"

// native/build.mjs over a project of one source: what a killed build or a damaged disk left behind is made again.

const root = join(import.meta.dirname, "../../..")
const folder = mkdtempSync(join(tmpdir(), "uniprefill-native-build-"))
const library = join(folder, "build/libone.so")
const object = join(folder, "build/CMakeFiles/one.dir/one.cc.o")
const build = () => execFileSync(process.execPath, [join(folder, "build.mjs")], { stdio: "pipe" })
const bytes = (file: string) => statSync(file).size

beforeAll(() => {
  copyFileSync(join(root, "native/build.mjs"), join(folder, "build.mjs"))
  copyFileSync(join(root, "native/package.json"), join(folder, "package.json"))
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"))
  writeFileSync(join(folder, "one.cc"), "int one() { return 1; }\n")
  writeFileSync(
    join(folder, "CMakeLists.txt"),
    "cmake_minimum_required(VERSION 3.20)\nproject(one CXX)\nadd_library(one SHARED one.cc)\nadd_custom_target(runtime DEPENDS one)\n",
  )
  build()
})
afterAll(() => rmSync(folder, { recursive: true }))

it("links a library again that is not as the last build left it", () => {
  const whole = bytes(library)
  truncateSync(library, 100)
  build()
  expect(bytes(library)).toBe(whole)
})

it("compiles what a killed build left half written", () => {
  const whole = bytes(object)
  writeFileSync(join(folder, "build/.building"), "")
  rmSync(library)
  truncateSync(object, 100)
  build()
  expect(bytes(object)).toBe(whole)
  build()
})

it("says what the compiler said, and again the next time", () => {
  writeFileSync(join(folder, "one.cc"), "int one() { return two; }\n")
  for (let time = 0; time < 2; time++) expect(build).toThrow(/two.* was not declared/)
  writeFileSync(join(folder, "one.cc"), "int one() { return 1; }\n")
  build()
})
