/** A scenario as data: what a seed stands for, and what shrinking cuts down. Times are steps of the scenario. */
export interface Scenario {
  readonly model: "full" | "hybrid" | "sliding" | "recurrent"
  readonly pageSize: number
  readonly slots: number
  /** Slabs of the pool, as a multiple of what the largest request can need. */
  readonly memory: number
  readonly budget: number
  readonly maxRowsPerStep: number
  /** Prompts are cut at multiples of so many rows; null: as where nothing is said. */
  readonly chunkRows: number | null
  readonly stepsInFlight: 1 | 2
  /** Keys of pages with output are told every so many steps: 1 as soon as they are known. */
  readonly pagesEvery: number
  readonly protectAfter: number
  /** Steps that a preempted answer waits for at most where others can make room; 0: for ever. */
  readonly maxPause: number
  /** Tokens of each decode that memory is kept for at admission. */
  readonly headroom: number
  /** Time to the first token beyond which prompts are served at a lower p; 0: none is. */
  readonly patience: number
  /** Measured over predicted time of steps; 0: nothing is measured. */
  readonly slowness: number
  readonly policy: string
  /** Share of blocks that selections keep. */
  readonly keep: number
  /** Pages between the places where prefill can resume in models with windows or states. */
  readonly resumePages: number
  /** State slots beyond one for each slot: room for snapshots. */
  readonly snapshots: number
  /** Steps before which everything in flight fails. */
  readonly failures: ReadonlyArray<number>
  /** What is in force from a step on. */
  readonly changes: ReadonlyArray<ScenarioChange>
  readonly requests: ReadonlyArray<ScenarioRequest>
}

export interface ScenarioChange {
  readonly at: number
  readonly policy: string
  readonly budget: number
}

export interface ScenarioRequest {
  /** The step before which it arrives. */
  readonly at: number
  readonly promptLength: number
  readonly maxTokens: number
  /** States no `maxTokens`: gets as many as fit, and stops at `stopAt`, which is given. */
  readonly open: boolean
  /** Answers to the prompt; as many as there are slots at most. */
  readonly answers: number
  /** The prompt goes on from the prompt and the whole output of an earlier request, where it is long enough; −1: of none. */
  readonly follows: number
  readonly drops: boolean
  /** The first `shared` tokens are those of the family. */
  readonly family: number
  readonly shared: number
  /** Whether its pages have keys. */
  readonly cached: boolean
  readonly tenant: string
  readonly priority: number
  /** The step after its arrival during (`inFlight`) or before which it is aborted; −1 for never. */
  readonly abortAfter: number
  readonly abortInFlight: boolean
  /** The output token that stops it, sampled by the model or found in its text; −1 for never. */
  readonly stopAt: number
  readonly stopString: boolean
}

const policies = [
  "fcfs",
  "priority",
  "shortest-prefill",
  "fair-share",
  "token-budget",
  "adversarial",
  "adversarial",
] as const
const budgets = [70, 150, 400, 5000] as const

/** What a seed stands for. Where rows are cut, how long answers pause and what is changed meanwhile is drawn apart: the rest is what it was without. */
export const drawScenario = (seed: number): Scenario => {
  const scenario = drawLoad(seed)
  const draw = generator(seed + 0x5eed_0000)
  const chunks = [null, null, 64, 128, 192, 320] as const
  const chunkRows = chunks[draw(chunks.length)]!
  const pauses = [0, 10, 25, 80] as const
  const maxPause = pauses[draw(pauses.length)]!
  const fillsPages = scenario.pageSize % (chunkRows ?? 64) === 0 || scenario.requests.every(({ cached }) => !cached)
  const changes = Array.from({ length: Math.max(0, draw(8) - 5) }, () => ({
    at: draw(100),
    policy: policies[draw(policies.length)]!,
    budget: budgets[draw(budgets.length)]!,
  }))
  return { ...scenario, maxPause, chunkRows: fillsPages ? chunkRows : scenario.pageSize, changes }
}

/** Which features a seed has is drawn first, then their sizes: most scenarios lack most features, so that each is met alone. */
const drawLoad = (seed: number): Scenario => {
  const draw = generator(seed)
  const chance = (share: number) => draw(1_000_000) < share * 1_000_000
  const between = (least: number, most: number) => least + draw(most - least + 1)
  const oneOf = <A>(...values: ReadonlyArray<A>): A => values[draw(values.length)]!
  const has = {
    bursts: chance(0.4),
    hugePrompts: chance(0.3),
    oneToken: chance(0.3),
    longOutputs: chance(0.4),
    aborts: chance(0.4),
    stops: chance(0.3),
    sharing: chance(0.6),
    failures: chance(0.25),
    tinyMemory: chance(0.6),
    forks: chance(0.4),
    conversations: chance(0.25),
    wholePages: chance(0.3),
  }
  const count = between(1, 14)
  const requests = Array.from({ length: count }, (_, index): ScenarioRequest => {
    const usual = has.wholePages ? 64 * between(1, 8) : oneOf(between(1, 90), between(100, 500))
    const promptLength = has.hugePrompts && chance(0.3) ? between(600, 1500) : usual
    const maxTokens = has.oneToken && chance(0.6) ? 1 : has.longOutputs ? between(20, 260) : between(1, 40)
    return {
      at: has.bursts ? oneOf(0, 0, 7) : draw(40),
      promptLength,
      maxTokens,
      answers: has.forks && chance(0.5) ? between(2, 4) : 1,
      open: false,
      follows: index > 0 && chance(has.conversations ? 0.8 : has.sharing ? 0.3 : 0) ? draw(index) : -1,
      drops: chance(0.6),
      family: draw(2),
      shared: has.sharing ? oneOf(promptLength, between(0, promptLength), 64 * draw(8)) : 0,
      cached: has.conversations || (has.sharing && chance(0.8)),
      tenant: oneOf("a", "b"),
      priority: draw(3),
      abortAfter: has.aborts && chance(0.5) ? oneOf(draw(4), draw(60)) : -1,
      abortInFlight: chance(0.7),
      stopAt: has.stops && chance(0.6) ? oneOf(0, draw(maxTokens), draw(maxTokens)) : -1,
      stopString: chance(0.5),
    }
  })
  for (const [i, one] of requests.entries()) if (one.stopAt >= 0) requests[i] = { ...one, open: chance(0.3) }
  const scenario: Scenario = {
    model: chance(0.5) ? "full" : oneOf("hybrid", "sliding", "recurrent"),
    pageSize: oneOf(64, 64, 128),
    slots: oneOf(1, 2, 3, 5, 8),
    memory: has.tinyMemory ? 1 + draw(oneOf(9, 40)) / 100 : 4,
    budget: oneOf(...budgets),
    maxRowsPerStep: oneOf(80, 256, 1024),
    chunkRows: null,
    changes: [],
    stepsInFlight: oneOf(1, 2, 2),
    pagesEvery: oneOf(1, 1, 1, 3),
    protectAfter: between(1, 4),
    maxPause: 0,
    headroom: oneOf(0, 0, 64, 384),
    slowness: oneOf(0, 0.5, 1, 3),
    policy: oneOf(...policies),
    keep: oneOf(0, 0.3, 0.6, 1),
    resumePages: oneOf(1, 2, 4, 100),
    snapshots: oneOf(0, 1, 3, 20),
    failures: has.failures ? Array.from({ length: between(1, 3) }, () => draw(50)) : [],
    patience: oneOf(0, 0, 30, 1000),
    requests,
  }
  // Drawn last, so that the others are what they were without it.
  if (!has.longOutputs && has.forks && chance(0.5)) {
    // All at once, every other one with several answers: prompts are computed while first tokens are awaited and nobody decodes.
    const burst = requests.map((one, i): ScenarioRequest => {
      const promptLength = i % 2 === 0 ? between(20, 120) : between(200, 500)
      const shared = Math.min(one.shared, promptLength)
      const [answers, maxTokens] = i % 2 === 0 ? [between(2, 3), between(2, 40)] : [1, one.maxTokens]
      return { ...one, at: 0, promptLength, shared, answers, maxTokens, follows: -1, open: false, stopAt: -1 }
    })
    const budget = oneOf(70, 150)
    return {
      ...scenario,
      requests: burst,
      budget,
      slots: oneOf(5, 8),
      memory: 4,
      stepsInFlight: 2,
      slowness: oneOf(0, 1),
    }
  }
  if (!has.longOutputs || !chance(0.6)) return scenario
  // Short prompts, and answers that outgrow the memory while they are written: who decodes makes room for who decodes.
  const growing = requests.map((one): ScenarioRequest => {
    const promptLength = between(20, 90)
    return {
      ...one,
      promptLength,
      shared: Math.min(one.shared, promptLength),
      maxTokens: between(100, 320),
      answers: 1,
    }
  })
  const memory = 1 + between(2, 60) / 100
  return { ...scenario, requests: growing, memory, headroom: 0, slots: oneOf(3, 5, 8), pageSize: 64 }
}

/** Integers below a bound, from a seed alone. */
const generator = (seed: number): ((below: number) => number) => {
  let state = (seed * 0x9e3779b9) >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let hash = Math.imul(state ^ (state >>> 15), state | 1)
    hash ^= hash + Math.imul(hash ^ (hash >>> 7), hash | 61)
    return Math.floor((((hash ^ (hash >>> 14)) >>> 0) / 0x1_0000_0000) * below)
  }
}

/** The scenario with one thing less in it, the largest cuts first. */
export function* smaller(scenario: Scenario): Generator<Scenario> {
  const { requests, failures, changes } = scenario
  const half = Math.ceil(requests.length / 2)
  if (requests.length > 2) {
    yield { ...scenario, requests: requests.slice(0, half) }
    yield { ...scenario, requests: requests.slice(half).map((one) => ({ ...one, follows: one.follows - half })) }
  }
  if (requests.length > 1) {
    for (let i = 0; i < requests.length; i++) yield { ...scenario, requests: without(requests, i) }
  }
  for (let i = 0; i < failures.length; i++) yield { ...scenario, failures: failures.toSpliced(i, 1) }
  for (let i = 0; i < changes.length; i++) yield { ...scenario, changes: changes.toSpliced(i, 1) }
  if (scenario.model !== "full") yield { ...scenario, model: "full" }
  if (scenario.policy !== "fcfs") yield { ...scenario, policy: "fcfs" }
  if (scenario.stepsInFlight === 2) yield { ...scenario, stepsInFlight: 1 }
  if (scenario.memory !== 4) yield { ...scenario, memory: 4 }
  if (scenario.maxRowsPerStep !== 1024) yield { ...scenario, maxRowsPerStep: 1024 }
  if (scenario.maxPause !== 0) yield { ...scenario, maxPause: 0 }
  if (scenario.chunkRows !== null) yield { ...scenario, chunkRows: null }
  if (scenario.budget !== 5000) yield { ...scenario, budget: 5000 }
  if (scenario.patience !== 0) yield { ...scenario, patience: 0 }
  if (scenario.headroom !== 0) yield { ...scenario, headroom: 0 }
  if (scenario.slowness !== 0) yield { ...scenario, slowness: 0 }
  const plain = {
    open: false,
    answers: 1,
    follows: -1,
    abortAfter: -1,
    stopAt: -1,
    cached: false,
    shared: 0,
    at: 0,
    drops: false,
    priority: 0,
  } as const
  for (const [i, request] of requests.entries()) {
    const replaced = (fields: Partial<ScenarioRequest>) => ({
      ...scenario,
      requests: requests.with(i, { ...request, ...fields }),
    })
    for (const [field, value] of Object.entries(plain)) {
      if (request[field as keyof typeof plain] !== value) yield replaced({ [field]: value })
    }
    for (const field of ["promptLength", "maxTokens", "at", "shared"] as const) {
      const value = request[field]
      for (const less of [Math.floor(value / 2), value - 64, value - 1]) {
        if (less >= (field === "at" || field === "shared" ? 0 : 1) && less < value) yield replaced({ [field]: less })
      }
    }
  }
}

const without = (requests: ReadonlyArray<ScenarioRequest>, gone: number): ReadonlyArray<ScenarioRequest> =>
  requests.toSpliced(gone, 1).map((one) => {
    if (one.follows === gone) return { ...one, follows: -1 }
    return one.follows > gone ? { ...one, follows: one.follows - 1 } : one
  })
