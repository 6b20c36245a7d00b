import { writeJson } from "./FileTree.mjs"

/**
 * A Vitest reporter that writes what happened, with the reasons of skips, as a {@link import("./Tally.mjs").Tally} to the
 * file that UNIPREFILL_VITEST_TALLY names.
 */
export default class VitestTally {
  /**
   * @param {ReadonlyArray<import("vitest/node").TestModule>} modules
   * @param {ReadonlyArray<unknown>} unhandledErrors
   */
  onTestRunEnd(modules, unhandledErrors) {
    const tally = { passed: 0, failed: unhandledErrors.length, skips: /** @type {import("./Tally.mjs").Skip[]} */ ([]) }
    for (const module of modules) {
      tally.failed += module.errors().length
      for (const suite of module.children.allSuites()) tally.failed += suite.errors().length
      for (const test of module.children.allTests()) {
        const result = test.result()
        if (result.state === "passed") tally.passed++
        else if (result.state !== "skipped") tally.failed++
        else tally.skips.push({ name: `${module.relativeModuleId}: ${test.fullName}`, reason: result.note || "" })
      }
    }
    writeJson(String(process.env.UNIPREFILL_VITEST_TALLY), tally)
  }
}
