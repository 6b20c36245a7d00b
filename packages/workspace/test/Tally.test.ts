import { describe, expect, it } from "vitest"
import { judgeSkips, summary } from "../src/Tally.mjs"

const tally = {
  passed: 3,
  failed: 1,
  skips: [
    { name: "kernels", reason: "no GPU" },
    { name: "studio", reason: "no Chromium: apt-get install chromium" },
    { name: "nothing said", reason: "" },
  ],
}

describe("Tally", () => {
  it("adds suites up to one line", () => {
    expect(summary([tally, { passed: 2, failed: 0, skips: [] }])).toEqual({
      line: "5 passed, 1 failed, 3 skipped",
      passed: 5,
      failed: 1,
    })
    expect(summary([{ passed: 2, failed: 0, skips: [] }]).line).toBe("2 passed, 0 failed")
  })

  it("counts every skip but a missing GPU as a failure where skips are forbidden", () => {
    expect(judgeSkips(tally, false)).toEqual(tally)
    expect(judgeSkips(tally, true)).toEqual({ passed: 3, failed: 3, skips: [{ name: "kernels", reason: "no GPU" }] })
  })
})
