import { spawnSync } from "node:child_process"
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"
import { root } from "./CopiedTree.ts"

/** Examples resolve packages as files of the repository do, so they are run inside it. */
mkdirSync(join(root, ".cache"), { recursive: true })
const folder = mkdtempSync(join(root, ".cache/examples-"))
afterAll(() => rmSync(folder, { recursive: true }))

const readmes = ["packages", "apps"]
  .flatMap((group) => readdirSync(join(root, group)).map((name) => `${group}/${name}/README.md`))
  .filter((file) => existsSync(join(root, file)))

const examples = readmes.flatMap((file) => {
  const blocks = readFileSync(join(root, file), "utf8").matchAll(/^```ts\n([\s\S]*?)^```$/gm)
  return [...blocks].map((match, index) => ({ name: `${file} ${index + 1}`, code: match[1]! }))
})

it("the examples were found", () => {
  expect(examples.length).toBeGreaterThanOrEqual(5)
})

it.each(examples)("the example in $name prints what it says", ({ name, code }) => {
  const expected = [...code.matchAll(/\/\/ → (.*)$/gm)].map((match) => match[1])
  const file = join(folder, `${name.replaceAll(/\W+/g, "-")}.ts`)
  writeFileSync(file, code)
  const { stdout, stderr, status } = spawnSync(process.execPath, ["--conditions=source", file], { encoding: "utf8" })
  expect({ status, stderr: status === 0 ? "" : stderr }).toEqual({ status: 0, stderr: "" })
  expect(expected.length).toBeGreaterThan(0)
  expect(stdout.trimEnd().split("\n")).toEqual(expected)
})
