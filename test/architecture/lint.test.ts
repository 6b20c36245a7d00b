import { spawnSync } from "node:child_process"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { CopiedTree, root } from "./CopiedTree.ts"

/** What the linter must see while a file is being edited, before any test runs. */
const planted: ReadonlyArray<readonly [code: string, file: string, text: string]> = [
  ["no-restricted-imports", "packages/scheduler/src/LintEffect.ts", `export { Effect } from "effect"\n`],
  ["no-restricted-imports", "packages/units/src/LintFiles.ts", `export { readFileSync } from "node:fs"\n`],
  ["no-restricted-imports", "packages/model/src/LintSubpath.ts", `export * as Schema from "effect/Schema"\n`],
  ["no-restricted-globals", "packages/scheduler/src/LintClock.ts", `export const now = () => Date.now()\n`],
  ["no-restricted-globals", "packages/cost-model/src/LintTimer.ts", `export const f = () => setTimeout(() => {}, 1)\n`],
  ["no-restricted-globals", "packages/scheduler/src/LintPromise.ts", `export const f = () => Promise.resolve(1)\n`],
  ["no-restricted-properties", "packages/model/src/LintChance.ts", `export const f = () => Math.random()\n`],
  ["no-focused-tests", "packages/units/test/Focus.test.ts", `import { it } from "vitest"\nit.only("a", () => {})\n`],
  [
    "no-floating-promises",
    "packages/engine/src/LintFloating.ts",
    `export const f = () => {\n  Promise.resolve(1)\n}\n`,
  ],
]

interface Report {
  readonly diagnostics: ReadonlyArray<{ readonly code: string; readonly filename: string }>
}

describe("planted violations", () => {
  const tree = new CopiedTree()
  afterAll(() => tree[Symbol.dispose]())
  for (const [, file, text] of planted) tree.add(file, text)
  const services = "packages/scheduler/src/services/LintAllowed.ts"
  tree.add(services, `export { Effect } from "effect"\n`)

  const files = [...planted.map(([, file]) => file), services]
  const program = join(root, "node_modules/.bin/oxlint")
  const { stdout } = spawnSync(program, ["--type-aware", "--format=json", ...files], {
    cwd: tree.root,
    encoding: "utf8",
    env: { ...process.env, PATH: `${join(root, "node_modules/.bin")}:${process.env["PATH"]}` },
  })
  const { diagnostics } = JSON.parse(stdout) as Report
  const codesIn = (file: string) => diagnostics.filter(({ filename }) => filename === file).map(({ code }) => code)

  it.each(planted)("%s in %s is found", (code, file) => {
    expect(codesIn(file)).toContainEqual(expect.stringContaining(code))
  })

  it("effect is allowed in src/services/", () => {
    expect(codesIn(services)).toEqual([])
  })
})
