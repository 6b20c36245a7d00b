import { Random } from "@uniprefill/units/Random"
import type { Scenario } from "../scenario/Scenario.ts"

/**
 * A random small scenario: sizes, features and faults are drawn so that rare mixtures are common. The same seed gives the
 * same scenario, which is plain data: it can be written to a file and made smaller.
 */
export const swarmScenario = (seed: number): Scenario => {
  const random = new Random(seed, "swarm")
  const chance = (share: number) => random.unit() < share
  const pick = <A>(...values: ReadonlyArray<A>): A => values[random.below(values.length)]!
  const slots = pick(1, 2, 4, 16)
  const longest = pick(600, 3000, 20_000)
  const model = pick("llama-3.1-8b", "llama-3.1-8b", "gemma-3-12b", "qwen3-next-80b-a3b")
  return {
    name: `swarm ${seed}`,
    seed,
    model,
    device: "h200",
    tensorParallel: model === "qwen3-next-80b-a3b" ? 2 : 1,
    replicas: pick(1, 1, 1, 3),
    router: pick("round-robin", "least-loaded", "prefix-aware"),
    schedule: chance(0.8) ? "preset" : "off",
    keep: chance(0.5) ? "paper" : chance(0.3) ? [0] : [random.unit()],
    policy: pick("fcfs", "fcfs", "priority", "shortest-prefill", "earliest-deadline", "fair-share", "token-budget"),
    timeoutMs: chance(0.15) ? 20_000 : 0,
    workload: {
      requests: random.between(1, 40),
      arrivals: pick("poisson", "gamma", "constant", "closed", "sessions"),
      ratePerSecond: pick(0.5, 5, 500),
      cv: 4,
      clients: random.between(1, 6),
      turns: random.between(1, 4),
      thinkMs: pick(0, 100),
      promptTokens: chance(0.2) ? longest : `uniform:1-${longest}`,
      outputTokens: chance(0.3) ? 1 : `uniform:1-${pick(3, 50, 400)}`,
      maxTokens: chance(0.5) ? "true-length" : 500,
    },
    engine: {
      slots,
      maxRowsPerStep: slots + 64 + pick(0, 64, 1000, 8192),
      stepBudgetMs: pick(1, 20, 50),
      idleStepBudgetMs: pick(1, 50, 500),
      maxPrefillWaitMs: pick(0, 100, 5000),
      protectAfter: pick(1, 3, 100),
      protectAfterMs: pick(10, 1000, 60_000),
      stepsInFlight: pick(1, 2),
      pageSize: pick(64, 128, 192),
      slabs: tightSlabs(random, model, longest),
      maxWaiting: chance(0.2) ? 3 : 1_000_000,
      prefixCaching: chance(0.7),
      maxNumSeqs: slots,
      maxNumBatchedTokens: slots + 64 + pick(0, 500, 2048),
    },
    faults: {
      slowSteps: chance(0.3) ? 0.1 : 0,
      slowFactor: 20,
      failedSteps: chance(0.3) ? pick(0.002, 0.05) : 0,
      recoveryMs: pick(0, 100, 5000),
      cancelled: chance(0.4) ? pick(0.1, 0.6) : 0,
      cancelWithinMs: pick(0, 300, 5000),
    },
  }
}

/** Often just enough for one of the longest requests, sometimes less, sometimes plenty. */
const tightSlabs = (random: Random, model: string, longest: number): number => {
  // Slabs that a page of rows takes in all layers together, roughly.
  const perPage = model === "llama-3.1-8b" ? 10 : model === "gemma-3-12b" ? 50 : 14
  const pages = Math.ceil((longest + 500) / 64)
  return Math.max(1, Math.ceil(pages * perPage * (0.3 + 2 * random.unit())))
}
