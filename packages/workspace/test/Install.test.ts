import { readFileSync } from "node:fs"
import { join } from "node:path"
import { expect, it } from "vitest"
import { manifestsAreLocked } from "../src/Install.mjs"

const root = join(import.meta.dirname, "../../..")
const locked = () =>
  (
    JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")) as {
      packages: Record<string, { dependencies?: Record<string, string> }>
    }
  ).packages

it("finds every package.json as package-lock.json has it: npm start installs once", () => {
  expect(manifestsAreLocked(locked())).toBe(true)
})

it("sees a dependency that the lockfile lacks, and a package that it lacks", () => {
  const lacking = locked()
  delete lacking["apps/studio"]!.dependencies!["@uniprefill/recording"]
  expect(manifestsAreLocked(lacking)).toBe(false)
  const without = locked()
  delete without["apps/studio"]
  expect(manifestsAreLocked(without)).toBe(false)
})
