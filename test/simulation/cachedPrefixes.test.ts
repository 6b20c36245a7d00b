import fc from "fast-check"
import { Memory } from "@uniprefill/scheduler/Memory"
import { afterEach, expect, it, vi } from "vitest"
import { runScenario } from "./Swarm.ts"
import type { ScenarioRequest } from "./SwarmScenario.ts"

afterEach(() => {
  vi.restoreAllMocks()
})

const integer = (min: number, max: number) => fc.integer({ min, max })

/** Prompts that share prefixes, with answers that come to need all the memory there is for one. */
const requests = fc.array(
  fc.record({
    at: integer(0, 20),
    promptLength: integer(60, 200),
    maxTokens: fc.oneof(integer(2, 10), integer(100, 260)),
    answers: fc.constantFrom(1, 1, 1, 2),
    follows: fc.constantFrom(-1, -1, 0),
    drops: fc.boolean(),
    family: fc.constantFrom(0, 0, 1),
    sharedPercent: fc.constantFrom(50, 100, 100),
  }),
  { minLength: 2, maxLength: 4 },
)

const load = fc.record({
  model: fc.constantFrom("sliding", "sliding", "hybrid"),
  pageSize: fc.constantFrom(64, 64, 128),
  slots: integer(2, 5),
  /** The pool has so much more than the largest request may need. */
  sparePercent: integer(0, 3),
  maxRowsPerStep: fc.constantFrom(80, 80, 256),
  stepsInFlight: fc.constantFrom(1, 2),
  protectAfter: integer(1, 3),
  headroom: fc.constantFrom(0, 64),
  policy: fc.constantFrom("fcfs", "priority", "fair-share", "lpm", "earliest-deadline", "adversarial"),
  keep: fc.constantFrom(0.3, 1),
  resumePages: fc.constantFrom(1, 1, 1, 4),
  snapshots: integer(0, 4),
  requests,
})

interface Found {
  preemptions: number
  prefixHits: number
}

/** Every drawn load comes to its end with every check held. Always the same draws. */
const checkLoads = (found: Found): void => {
  fc.assert(
    fc.property(load, ({ sparePercent, requests: drawn, ...rest }) => {
      const outcome = runScenario({
        ...rest,
        memory: 1 + sparePercent / 100,
        budget: 5000,
        chunkRows: rest.pageSize,
        pagesEvery: 1,
        slowness: 0,
        maxPause: 0,
        failures: [],
        changes: [],
        patience: 0,
        requests: drawn.map(({ sharedPercent, follows, ...one }, i): ScenarioRequest => ({
          ...one,
          follows: i === 0 ? -1 : follows,
          shared: Math.floor((one.promptLength * sharedPercent) / 100),
          open: false,
          cached: true,
          tenant: i % 2 === 0 ? "a" : "b",
          priority: i % 3,
          abortAfter: -1,
          abortInFlight: false,
          stopAt: -1,
          stopString: false,
        })),
      })
      found.preemptions += outcome.preemptions
      found.prefixHits += outcome.prefixHits
    }),
    { numRuns: 120, seed: 13 },
  )
}

it("memory for one: whoever shares a prefix comes to its end, and does not give way to what is cached of it", () => {
  const found = { preemptions: 0, prefixHits: 0 }
  checkLoads(found)
  expect(found.preemptions).toBeGreaterThan(50)
  expect(found.prefixHits).toBeGreaterThan(2000)
})

it("and would give way to itself if windows that nobody reads any more did not count as room", () => {
  vi.spyOn(Memory.prototype, "available", "get").mockImplementation(function (this: Memory) {
    let idle = 0
    for (const run of this.tree.values()) if (run.users === 0) idle += run.slabCount
    return this.pool.free + idle
  })
  let failure: unknown
  try {
    checkLoads({ preemptions: 0, prefixHits: 0 })
  } catch (error) {
    failure = (error as Error).cause
  }
  expect(String(failure)).toMatch(/the only request there is does not give way/)
})
