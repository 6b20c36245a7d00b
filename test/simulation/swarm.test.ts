import { expect, it } from "vitest"
import { runScenario, shrink, SwarmFailure, type SwarmOutcome } from "./Swarm.ts"
import { drawScenario } from "./SwarmScenario.ts"

/** UNIPREFILL_SWARM_SEED runs one seed, UNIPREFILL_SWARM_SEEDS that many from 1 on. */
const one = process.env["UNIPREFILL_SWARM_SEED"]
const count = Number(process.env["UNIPREFILL_SWARM_SEEDS"] ?? 100)
const seeds = one === undefined ? Array.from({ length: count }, (_, i) => i + 1) : [Number(one)]

/** The scenario of a seed, or its failure with the line that reproduces it and a scenario cut down to what matters. */
const run = (seed: number): SwarmOutcome => {
  const scenario = drawScenario(seed)
  try {
    return runScenario(scenario)
  } catch (cause) {
    if (!(cause instanceof SwarmFailure)) throw cause
    const least = shrink(scenario)
    throw new Error(
      `seed ${seed}, ${cause.message}\n` +
        `reproduce: UNIPREFILL_SWARM_SEED=${seed} npx vitest run test/simulation/swarm.test.ts\n` +
        `cut down: ${least.message}\n${JSON.stringify(least.scenario)}`,
      { cause },
    )
  }
}

it(`${seeds.length} random scenarios keep every invariant after every step and come to an end`, () => {
  const outcomes = seeds.map(run)
  const sum = (of: (outcome: SwarmOutcome) => number) => outcomes.reduce((total, outcome) => total + of(outcome), 0)
  const totals = {
    steps: sum(({ steps }) => steps),
    preemptions: sum(({ preemptions }) => preemptions),
    prefixHits: sum(({ prefixHits }) => prefixHits),
    failures: sum(({ failures }) => failures),
    changes: sum(({ changes }) => changes),
    forks: sum(({ forks }) => forks),
    lowered: sum(({ lowered }) => lowered),
    snapshots: sum(({ snapshots }) => snapshots),
    restores: sum(({ restores }) => restores),
    aborted: sum(({ ended }) => ended.get("abort") ?? 0),
    stopped: sum(({ ended }) => ended.get("stop") ?? 0),
  }
  console.log(totals)
  // The scenarios do meet what they are for.
  const least = one === undefined ? Math.floor(count / 10) : 0
  for (const [name, total] of Object.entries(totals))
    expect({ name, enough: total >= least }).toEqual({ name, enough: true })
}, 1_200_000)

const request = { at: 0, drops: false, family: 0, shared: 0, cached: false, tenant: "a", priority: 0 }
const rest = {
  open: false,
  answers: 1,
  follows: -1,
  abortAfter: -1,
  abortInFlight: true,
  stopAt: -1,
  stopString: false,
}
const plain = {
  model: "full",
  pageSize: 64,
  budget: 5000,
  maxRowsPerStep: 1024,
  chunkRows: null,
  pagesEvery: 1,
  headroom: 0,
  maxPause: 0,
  patience: 0,
  slowness: 0,
  keep: 1,
  resumePages: 4,
  snapshots: 0,
  failures: [],
  changes: [],
} as const

it("a request that needs the page of one just stopped waits for it, and does not start over", () => {
  const outcome = runScenario({
    ...plain,
    slots: 2,
    memory: 1.3,
    stepsInFlight: 2,
    protectAfter: 3,
    policy: "fcfs",
    // The first needs its third page while a step that still holds a row of the second, which has ended, is in flight.
    requests: [
      { ...request, ...rest, promptLength: 60, maxTokens: 100 },
      { ...request, ...rest, promptLength: 1, maxTokens: 120, stopAt: 67 },
    ],
  })
  expect(outcome.preemptions).toBe(0)
})

it("a prompt is not passed over by those that the same step begins before it", () => {
  // The plan opens the first one's slot behind the other two, and serves all three; then memory runs out.
  const sizes = [
    [37, 221],
    [1, 157],
    [1, 93],
  ] as const
  const requests = sizes.map(([promptLength, maxTokens]) => ({ ...request, ...rest, promptLength, maxTokens }))
  const load = {
    slots: 3,
    memory: 1.25,
    stepsInFlight: 1,
    protectAfter: 1,
    policy: "shortest-prefill",
    requests,
  } as const
  expect(runScenario({ ...plain, ...load }).preemptions).toBeGreaterThan(0)
})

it.each([1, 2] as const)(
  "who is begun while an older prompt gives way passes the oldest of those that wait, %i in flight",
  (stepsInFlight) => {
    const sizes = [
      [9, 93, 37, 0, 2],
      [14, 247, 11, 0, 1],
      [13, 240, 27, 0, 1],
      [17, 61, 12, 2, 1],
      [20, 463, 40, 2, 3],
      [8, 57, 14, 2, 4],
    ] as const
    const requests = sizes.map(([at, promptLength, maxTokens, priority, answers]) => ({
      ...request,
      ...rest,
      at,
      promptLength,
      maxTokens,
      priority,
      answers,
    }))
    const load = {
      pageSize: 128,
      slots: 8,
      memory: 1.03,
      stepsInFlight,
      protectAfter: 2,
      policy: "priority",
      requests,
    } as const
    expect(runScenario({ ...plain, ...load }).preemptions).toBeGreaterThan(0)
  },
)
