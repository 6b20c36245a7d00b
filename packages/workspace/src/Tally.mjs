import { say } from "./Terminal.mjs"

/**
 * @typedef {{ name: string; reason: string }} Skip
 * @typedef {{ passed: number; failed: number; skips: Skip[] }} Tally What a suite came to.
 */

/** The one thing that a machine may lack when skips are forbidden. */
const allowedReason = /^no GPU\b/

/**
 * Under UNIPREFILL_FORBID_SKIPS=1 every skip but "no GPU" is a failure.
 *
 * @param {Tally} tally
 * @param {boolean} forbidSkips
 * @returns {Tally}
 */
export const judgeSkips = (tally, forbidSkips) => {
  if (!forbidSkips) return tally
  const skips = tally.skips.filter(({ reason }) => allowedReason.test(reason))
  return { ...tally, failed: tally.failed + tally.skips.length - skips.length, skips }
}

/**
 * The line that ends a run.
 *
 * @param {readonly Tally[]} tallies
 */
export const summary = (tallies) => {
  const passed = tallies.reduce((sum, tally) => sum + tally.passed, 0)
  const failed = tallies.reduce((sum, tally) => sum + tally.failed, 0)
  const skipped = tallies.reduce((sum, tally) => sum + tally.skips.length, 0)
  return { line: `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`, passed, failed }
}

/**
 * Prints each suite's count, every skip with its reason, and the summary alone on the last line of standard output.
 *
 * @param {readonly (readonly [title: string, tally: Tally])[]} suites
 * @returns {number} The run's exit code: 0 when something ran and nothing failed.
 */
export const report = (suites) => {
  const forbid = process.env.UNIPREFILL_FORBID_SKIPS === "1"
  const width = Math.max(...suites.map(([title]) => title.length))
  say("")
  for (const [title, tally] of suites) {
    const judged = judgeSkips(tally, forbid)
    say(`${title.padEnd(width)}  ${summary([judged]).line}`)
    for (const skip of tally.skips) {
      const verdict = judged.skips.includes(skip) ? "skipped" : "failed (skips are forbidden here)"
      say(`  ${verdict}: ${skip.name}: ${skip.reason || "no reason given"}`)
    }
  }
  const { line, passed, failed } = summary(suites.map(([, tally]) => judgeSkips(tally, forbid)))
  process.stdout.write(`${line}\n`)
  return failed === 0 && passed > 0 ? 0 : 1
}
