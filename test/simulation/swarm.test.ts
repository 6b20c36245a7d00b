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

it("a request that needs the page of one just stopped waits for it, and does not start over", () => {
  const request = { at: 0, drops: false, family: 0, shared: 0, cached: false, tenant: "a", priority: 0 }
  const rest = { open: false, answers: 1, follows: -1, abortAfter: -1, abortInFlight: true, stopString: false }
  const outcome = runScenario({
    model: "full",
    pageSize: 64,
    slots: 2,
    memory: 1.3,
    budget: 5000,
    maxRowsPerStep: 1024,
    stepsInFlight: 2,
    pagesEvery: 1,
    protectAfter: 3,
    headroom: 0,
    patience: 0,
    slowness: 0,
    policy: "fcfs",
    keep: 1,
    resumePages: 4,
    snapshots: 0,
    failures: [],
    // The first needs its third page while a step that still holds a row of the second, which has ended, is in flight.
    requests: [
      { ...request, ...rest, promptLength: 60, maxTokens: 100, stopAt: -1 },
      { ...request, ...rest, promptLength: 1, maxTokens: 120, stopAt: 67 },
    ],
  })
  expect(outcome.preemptions).toBe(0)
})
