import { spawnSync } from "node:child_process"
import { join } from "node:path"
import { expect, it } from "vitest"
import { root } from "../architecture/CopiedTree.ts"

/**
 * What of the Python package can be checked without torch: its structures against the C headers, how it finds the library, schedules
 * and fingerprints. Operators and models are checked where torch and a GPU are, by test/gpu/python.
 */
const modules = ["test_structures", "test_library", "test_schedule"]

it("the Python package agrees with the headers, the engine's schedules and its fingerprints", (context) => {
  if (spawnSync("python3", ["--version"]).error !== undefined) context.skip("no python3: apt-get install python3")
  const { status, stderr } = spawnSync("python3", ["-m", "unittest", ...modules], {
    cwd: join(root, "native/python/tests"),
    encoding: "utf8",
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1" },
  })
  expect(stderr).toMatch(/\nRan (?:1[89]|[2-9]\d) tests in .*\n\nOK\n$/)
  expect(status).toBe(0)
})
