import * as fs from "node:fs"
import { run } from "./Child.mjs"
import { readJson } from "./FileTree.mjs"
import { readJunit } from "./Junit.mjs"
import { cacheFolder, inRoot } from "./Paths.mjs"
import { runtimeNode } from "./Runtime.mjs"
import { say, task } from "./Terminal.mjs"

/** @typedef {import("./Tally.mjs").Tally} Tally */

/**
 * A suite that ended badly without naming a failed test, or that ran nothing, has one failure.
 *
 * @param {Tally} tally
 * @param {number} code The runner's exit code.
 * @returns {Tally}
 */
const withExitCode = (tally, code) =>
  tally.failed === 0 && (code !== 0 || tally.passed + tally.skips.length === 0) ? { ...tally, failed: 1 } : tally

/**
 * Runs Vitest.
 *
 * @param {readonly string[]} filters Parts of the test files' paths; none for all.
 * @returns {Promise<Tally>}
 */
export const runVitest = async (filters) => {
  const tallyFile = `${cacheFolder}/vitest-${process.pid}.json`
  const reporters = ["--reporter=default", `--reporter=${inRoot("packages/workspace/src/VitestTally.mjs")}`]
  const args = [inRoot("node_modules/vitest/vitest.mjs"), "run", ...reporters, ...filters]
  const { code } = await run(runtimeNode(), args, { env: { UNIPREFILL_VITEST_TALLY: tallyFile } })
  const tally = readJson(tallyFile) || { passed: 0, failed: 0, skips: [] }
  fs.rmSync(tallyFile, { force: true })
  return withExitCode(tally, code)
}

/**
 * Builds and runs the native tests, as they are or under the address and undefined-behaviour sanitizers.
 *
 * @param {"plain" | "sanitized"} kind
 * @returns {Promise<Tally>}
 */
export const runNative = async (kind) => {
  const isPlain = kind === "plain"
  const junit = inRoot("native/build", isPlain ? "junit.xml" : "sanitize/junit.xml")
  fs.rmSync(junit, { force: true })
  const title = isPlain ? "Running native tests" : "Running native tests under sanitizers"
  const { code, output } = await task(title, (latest) =>
    run(runtimeNode(), [inRoot("native/build.mjs"), isPlain ? "--test" : "--sanitize"], { onLine: latest }),
  )
  if (code !== 0) say(output.trim())
  return withExitCode(readJunit(junit), code)
}
