import { readFileSync } from "node:fs"
import { join } from "node:path"
import { expect, it } from "vitest"
import { manifestFiles, otherVersions } from "../../packages/workspace/src/Version.mjs"
import { root } from "./CopiedTree.ts"

const read = (file: string) => readFileSync(join(root, file), "utf8")
const { version } = JSON.parse(read("package.json")) as { readonly version: string }

it("every package, and what packages ask of each other, has the root's version", () => {
  expect(manifestFiles()).toEqual(expect.arrayContaining(["apps/server/package.json", "native/prebuilt/package.json"]))
  expect(otherVersions()).toEqual([])
})

it("CMake takes the version from the manifest, and pkg-config and CMake packages from there", () => {
  const text = read("native/CMakeLists.txt")
  expect(text).toContain("file(READ package.json manifest)")
  expect(text).toContain("project(uniprefill VERSION ${version} ")
})

it("the changelog begins with this version, or with what is not released yet", () => {
  const headings = [...read("CHANGELOG.md").matchAll(/^## (.*)$/gm)].map((match) => match[1]!)
  expect(headings.length).toBeGreaterThan(0)
  const [first] = headings[0] === "Unreleased" ? headings.slice(1) : headings
  expect(first).toMatch(new RegExp(`^${version.replaceAll(".", "\\.")}( |$)`))
})
