import { spawnSync } from "node:child_process"
import { join } from "node:path"
import { expect, it } from "vitest"
import { root } from "../architecture/CopiedTree.ts"

/**
 * What of the Python can be checked without torch: the package's structures against the C headers, how it finds the library, schedules
 * and fingerprints; that the checks on a GPU name what there is. Operators and models are checked where torch and a GPU are, by
 * test/gpu/python and test/gpu/run.
 */
const suites = [
  {
    what: "the Python package agrees with the headers, the engine's schedules and its fingerprints",
    folder: "native/python/tests",
    modules: ["test_structures", "test_library", "test_schedule"],
    atLeast: 18,
  },
  {
    what: "the checks on a GPU agree with the backend's table and the package's structures",
    folder: "test/python",
    modules: ["test_gpu_scripts"],
    atLeast: 3,
  },
]

it.for(suites)("$what", ({ folder, modules, atLeast }, context) => {
  if (spawnSync("python3", ["--version"]).error !== undefined) context.skip("no python3: apt-get install python3")
  const { status, stderr } = spawnSync("python3", ["-m", "unittest", ...modules], {
    cwd: join(root, folder),
    encoding: "utf8",
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: "1" },
  })
  expect(stderr).toMatch(/\nOK\n$/)
  expect(Number(/\nRan (\d+) tests in /.exec(stderr)?.[1])).toBeGreaterThanOrEqual(atLeast)
  expect(status).toBe(0)
})
