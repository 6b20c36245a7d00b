import { readFileSync } from "node:fs"
import { expect, it } from "vitest"
import { drawn, vectorFiles } from "./vectors.ts"

/** What other engines test against; the native test `vectors_test` holds our own kernels to the same files. */
it("the test vectors are those that the reference makes", () => {
  const files = vectorFiles()
  const read = (name: string) => readFileSync(new URL(`../../native/vectors/${name}`, import.meta.url), "utf8")
  expect(Object.fromEntries(Object.keys(files).map((name) => [name, read(name)]))).toEqual(files)
})

it("the numbers that the vectors' page gives of a tensor are what is drawn", () => {
  const page = readFileSync(new URL("../../native/vectors/README.md", import.meta.url), "utf8")
  const said = /seed 1 begins with `([^`]+)`/.exec(page)![1]!.split(", ").map(Number)
  expect(said).toHaveLength(4)
  expect(said).toEqual([0, 1, 2, 3].map((index) => drawn(1, index)))
})
