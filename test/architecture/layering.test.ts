import { readFileSync } from "node:fs"
import { join } from "node:path"
import { afterAll, describe, expect, it } from "vitest"
import { CopiedTree, root } from "./CopiedTree.ts"
import { checkLayering } from "./Layering.ts"
import { coreFolders, shellFiles } from "./Layers.ts"
import { checkPureCore, presentCoreFolders } from "./PureCore.ts"
import { render } from "./Violation.ts"

describe("this repository", () => {
  it("has packages that depend in one direction and declare what they import", () => {
    expect(render(checkLayering(root))).toEqual([])
  })

  it("has a core that is deterministic in its arguments", () => {
    expect(presentCoreFolders(root)).toEqual(expect.arrayContaining(["packages/scheduler/src", "packages/model/src"]))
    expect(render(checkPureCore(root))).toEqual([])
  })

  it("names the same core to the linter and to the tests", () => {
    const { overrides } = JSON.parse(readFileSync(join(root, ".oxlintrc.json"), "utf8")) as {
      overrides: ReadonlyArray<{ files: ReadonlyArray<string>; excludeFiles: ReadonlyArray<string> }>
    }
    expect(overrides[0]?.files).toEqual(coreFolders.map((folder) => `${folder}/**`))
    expect(overrides[0]?.excludeFiles).toEqual([...shellFiles, "packages/*/src/services/**"])
  })
})

/** A file that breaks one rule, and the rule. */
const plantedModules: ReadonlyArray<readonly [rule: string, file: string, text: string]> = [
  ["direction", "packages/units/src/Up.ts", `export { denseSchedule } from "@uniprefill/model/DropSchedule"\n`],
  ["direction", "packages/model/src/UpType.ts", `export type A = import("@uniprefill/scheduler/StepPlan").StepPlan\n`],
  ["direction", "packages/executor/src/UpLazy.ts", `export const f = () => import("@uniprefill/engine/Engine")\n`],
  ["direction", "apps/server/src/Beside.ts", `import type {} from "@uniprefill/sim/Files"\n`],
  ["direction", "apps/server/src/bench/Beside.ts", `import type {} from "@uniprefill/sim/Files"\n`],
  ["border", "packages/engine/src/Border.ts", `import type {} from "@uniprefill/openai/Model"\n`],
  ["escape", "packages/engine/src/Escape.ts", `import type {} from "../../scheduler/src/StepPlan.ts"\n`],
  ["undeclared", "packages/engine/src/Undeclared.ts", `import type {} from "react"\n`],
  ["undeclared", "packages/engine/test/Undeclared.test.ts", `import type {} from "react"\n`],
  ["core-import", "packages/units/src/Effect.ts", `import type {} from "effect"\n`],
  ["core-import", "packages/scheduler/src/Subpath.ts", `export * from "effect/Schema"\n`],
  ["core-import", "packages/scheduler/src/Files.ts", `import type {} from "node:fs"\n`],
  ["core-import", "packages/scheduler/src/Shell.ts", `import type {} from "./services/Planted.ts"\n`],
  ["core-import", "packages/cost-model/src/Far.ts", `import type {} from "@uniprefill/model/ModelDirectory"\n`],
  ["core-global", "packages/scheduler/src/Clock.ts", `export const now = () => Date.now()\n`],
  ["core-global", "packages/scheduler/src/Monotonic.ts", `export const now = () => performance.now()\n`],
  ["core-global", "packages/scheduler/src/Chance.ts", `export const chance = () => Math.random()\n`],
  ["core-global", "packages/scheduler/src/Timer.ts", `export const f = (g: () => void) => setTimeout(g, 1)\n`],
  ["core-global", "packages/model/src/Env.ts", `export const debug = process.env["DEBUG"]\n`],
  ["core-global", "packages/units/src/Meta.ts", `export const here = import.meta.url\n`],
  ["core-global", "packages/units/src/Locale.ts", `export const f = (a: string) => a.localeCompare("b")\n`],
  ["core-async", "packages/scheduler/src/Async.ts", `export const f = async () => 1\n`],
  ["core-async", "packages/cost-model/src/Promised.ts", `export const f = () => Promise.resolve(1)\n`],
  ["core-arithmetic", "packages/scheduler/src/Log.ts", `export const f = (x: number) => Math.log(x)\n`],
  ["core-arithmetic", "packages/scheduler/src/Power.ts", `export const f = (x: number) => x ** 0.5\n`],
  ["core-arithmetic", "packages/cost-model/src/Taken.ts", `const { exp } = Math\nexport const f = exp\n`],
]

describe("planted violations", () => {
  const tree = new CopiedTree()
  afterAll(() => tree[Symbol.dispose]())
  for (const [, file, text] of plantedModules) tree.add(file, text)
  const manifest = { type: "module", dependencies: {} as Record<string, string> }
  const planted = { ...manifest, name: "@uniprefill/planted", dependencies: { "@uniprefill/units": "0.1.0" } }
  tree.add("packages/planted/package.json", JSON.stringify(planted))
  tree.add("packages/planted/tsconfig.json", `{ "references": [{ "path": "../model" }] }`)
  tree.add("tsconfig.json", `{ "files": [], "references": [{ "path": "packages/units" }] }`)
  const violations = [...checkLayering(tree.root), ...checkPureCore(tree.root)]

  it.each(plantedModules)("%s in %s is found", (rule, file) => {
    expect(violations).toContainEqual(expect.objectContaining({ rule, file }))
  })

  it("a package without a layer is found", () => {
    const file = "packages/planted/package.json"
    expect(violations).toContainEqual(expect.objectContaining({ rule: "layer", file }))
  })

  it("a dependency that nothing imports is found", () => {
    const file = "packages/planted/package.json"
    expect(violations).toContainEqual(expect.objectContaining({ rule: "unused", file }))
  })

  it("references that differ from the dependencies are found, both ways", () => {
    const found = violations.filter(({ file }) => file === "packages/planted/tsconfig.json")
    expect(found.map(({ message }) => message)).toEqual([
      "packages/units is a dependency but no reference",
      "packages/model is a reference but no dependency",
    ])
  })

  it("a package that tsc -b would pass by is found", () => {
    const message = "packages/planted is no reference"
    expect(violations).toContainEqual({ rule: "reference", file: "tsconfig.json", line: 0, message })
  })

  it("names that only look like globals are not violations", () => {
    const text = `
      export interface Step { readonly Date: number; process(): void }
      export const f = (step: Step) => step.Date + { performance: 1 }.performance + Math.max(1, Math.sqrt(2), Math.PI)
    `
    tree.add("packages/units/src/Names.ts", text)
    expect(checkPureCore(tree.root).filter(({ file }) => file === "packages/units/src/Names.ts")).toEqual([])
  })
})
