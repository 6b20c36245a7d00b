import { expect, it } from "vitest"
import { failureLines } from "../src/Build.mjs"

it("shows what the failed task said and nothing else", () => {
  const output = `• turbo 2.11.9
@uniprefill/units:build: cache hit, replaying logs 1c2e
@uniprefill/units:build: > tsc -b
@uniprefill/model:build: cache miss, executing 5b4d
@uniprefill/model:build:
@uniprefill/model:build: > @uniprefill/model@0.1.0 build
@uniprefill/model:build: > tsc -b
@uniprefill/model:build:
@uniprefill/model:build: src/Work.ts(3,7): error TS2322: Type 'string' is not assignable to type 'number'.
@uniprefill/model:build: npm error Lifecycle script \`build\` failed with error:
@uniprefill/model#build:  ERROR  command (packages/model) npm run build exited (2)

 Tasks:    1 successful, 2 total
Failed:    @uniprefill/model#build
`
  expect(failureLines(output)).toBe(
    "@uniprefill/model#build\nsrc/Work.ts(3,7): error TS2322: Type 'string' is not assignable to type 'number'.",
  )
  expect(failureLines("turbo: cannot start\n")).toBe("turbo: cannot start")
})
