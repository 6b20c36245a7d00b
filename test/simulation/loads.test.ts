import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { cases } from "./LoadCases.ts"
import { largest, percentile, ServedLoad, stream } from "./Loads.ts"

describe("what single requests see under ordinary load", () => {
  it.each(cases.filter(({ limits }) => Object.keys(limits).length > 0).map((one) => [one.name, one] as const))(
    "%s",
    (_, { measure, limits }) => {
      const measured = measure()
      for (const [figure, limit] of Object.entries(limits)) {
        expect(measured[figure], `${figure} of ${JSON.stringify(measured)}`).toBeLessThanOrEqual(limit)
      }
    },
  )
})

/** Always the same draws: whether a limit holds is no matter of luck. */
const runs = { numRuns: 8, seed: 7 }

describe("loads of their kind", () => {
  it("fair-share: a flood of one tenant, whatever its prompts, delays nobody else", () => {
    const flood = fc.record({
      count: fc.integer({ min: 100, max: 400 }),
      prompt: fc.integer({ min: 512, max: 16_384 }),
      answer: fc.integer({ min: 1, max: 100 }),
      other: fc.integer({ min: 64, max: 2048 }),
    })
    fc.assert(
      fc.property(flood, ({ count, prompt, answer, other }) => {
        const rows = [
          ...stream(count, 0, { promptTokens: prompt, outputTokens: answer, tenant: "a", group: "a" }),
          ...stream(12, 1, { promptTokens: other, outputTokens: 32, tenant: "b", group: "b" }, 1),
        ]
        const served = new ServedLoad({ rows, scenario: { policy: "fair-share" } })
        expect(largest(served.ttft("b"))).toBeLessThanOrEqual(500)
      }),
      runs,
    )
  })

  it("priority: important prompts are served at once, whoever holds the slots", () => {
    const overload = fc.record({
      slots: fc.integer({ min: 4, max: 32 }),
      answer: fc.integer({ min: 500, max: 4000 }),
      prompt: fc.integer({ min: 256, max: 4096 }),
    })
    fc.assert(
      fc.property(overload, ({ slots, answer, prompt }) => {
        const rows = [
          ...stream(slots * 2, 0, { promptTokens: 1024, outputTokens: answer, priority: 1 }),
          ...stream(4, 1, { promptTokens: prompt, outputTokens: 32, priority: 0, group: "important" }, 2),
        ]
        const served = new ServedLoad({ rows, scenario: { policy: "priority", engine: { slots } } })
        expect(largest(served.ttft("important"))).toBeLessThanOrEqual(200)
      }),
      runs,
    )
  })

  it("a slow device gets smaller chunks: the time between tokens stays near the budget", () => {
    fc.assert(
      fc.property(fc.integer({ min: 12, max: 30 }), fc.integer({ min: 4096, max: 32_768 }), (tenths, prompt) => {
        const rows = [
          ...stream(8, 0, { promptTokens: 1024, outputTokens: 2000, group: "decodes" }),
          ...stream(20, 1, { promptTokens: prompt, outputTokens: 40 }, 2),
        ]
        const served = new ServedLoad({ rows, scenario: { faults: { slowSteps: 1, slowFactor: tenths / 10 } } })
        expect(percentile(served.gaps("decodes", 400), 0.99)).toBeLessThanOrEqual(1.2 * 50)
      }),
      runs,
    )
  })
})
