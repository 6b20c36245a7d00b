import { spawnSync } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { afterAll, expect, it } from "vitest"

const root = join(import.meta.dirname, "../../..")
const folder = mkdtempSync(join(tmpdir(), "uniprefill-tally-"))
afterAll(() => rmSync(folder, { recursive: true }))

it("counts tests, failing hooks and files that cannot be loaded, and keeps the reasons of skips", () => {
  symlinkSync(join(root, "node_modules"), join(folder, "node_modules"))
  const testFile = (name: string, body: string) =>
    writeFileSync(join(folder, `${name}.test.js`), `import { beforeAll, describe, expect, it } from "vitest"\n${body}`)
  testFile("fine", `it("passes", () => {}); it("fails", () => { expect(1).toBe(2) })`)
  testFile("absent", `it("needs a device", (context) => context.skip("no GPU"))`)
  testFile("broken", `throw new Error("cannot load")`)
  testFile(
    "hook",
    `describe("all", () => { beforeAll(() => { throw new Error("hook") }); it("never runs", () => {}) })`,
  )

  const tallyFile = join(folder, "tally.json")
  const reporter = join(root, "packages/workspace/src/VitestTally.mjs")
  const vitest = join(root, "node_modules/vitest/vitest.mjs")
  const { status } = spawnSync(process.execPath, [vitest, "run", "--root", folder, `--reporter=${reporter}`], {
    env: { ...process.env, UNIPREFILL_VITEST_TALLY: tallyFile },
  })

  expect(status).toBe(1)
  const tally = JSON.parse(readFileSync(tallyFile, "utf8")) as { failed: number; skips: ReadonlyArray<unknown> }
  expect(tally).toMatchObject({ passed: 1, failed: 3 })
  expect(tally.skips).toContainEqual({ name: "absent.test.js: needs a device", reason: "no GPU" })
})
