/**
 * The swarm's scenarios on the native runner, with tiny models of every layer kind: whatever a server does to a request, its answers are
 * bit by bit what it gets alone.
 */
import { type StepPlan, StateOperation } from "@uniprefill/scheduler/StepPlan"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { type NativeOutcome, NativeModels, runNative } from "./NativeSwarm.ts"
import { drawScenario, type Scenario } from "./SwarmScenario.ts"

/** UNIPREFILL_SWARM_SEED runs one seed, UNIPREFILL_SWARM_SEEDS that many from 1 on, each with every model. */
const one = process.env["UNIPREFILL_SWARM_SEED"]
const count = Number(process.env["UNIPREFILL_SWARM_SEEDS"] ?? 12)
const seeds = one === undefined ? Array.from({ length: count }, (_, i) => i + 1) : [Number(one)]

let models: NativeModels
beforeAll(() => void (models = new NativeModels()))
afterAll(() => models[Symbol.dispose]())

/** What a model's scenarios must meet to be worth anything. */
const met: ReadonlyArray<readonly [model: Scenario["model"], name: string, ReadonlyArray<keyof NativeOutcome>]> = [
  ["full", "full attention", ["preemptions", "prefixHits", "forks", "aborted", "compared"]],
  ["sliding", "windows", ["preemptions", "prefixHits", "forks", "windowsFreed"]],
  ["recurrent", "Gated DeltaNet", ["preemptions", "prefixHits", "forks", "snapshots", "restores"]],
  ["hybrid", "Gated DeltaNet with experts", ["preemptions", "prefixHits", "forks", "snapshots", "restores"]],
]

describe("answers are what each is alone, bit by bit,", () => {
  it.each(met)("%s: %s", { timeout: 1_200_000 }, async (model, _, wanted) => {
    const totals: Record<string, number> = {}
    for (const seed of seeds) {
      const outcome = await runNative(models, { ...drawScenario(seed), model }).catch((cause: Error) => {
        const reproduce = `UNIPREFILL_SWARM_SEED=${seed} npx vitest run test/simulation/nativeSwarm.test.ts -t ${model}`
        throw new Error(`seed ${seed}: ${cause.message}\nreproduce: ${reproduce}`, { cause })
      })
      for (const [name, value] of Object.entries(outcome)) totals[name] = (totals[name] ?? 0) + value
    }
    console.log(model, totals)
    // A single seed meets what it meets.
    expect(one === undefined ? wanted.filter((name) => totals[name] === 0) : []).toEqual([])
  })
})

/** Changes plans on their way to the runner. Each is made anew for a scenario. */
type Fault = () => (plan: StepPlan) => void

/** The first two pages that a table is given in one plan change places. */
const pagesSwapped: Fault =
  () =>
  ({ maps: { data, length } }) => {
    for (let i = 3; i < length; i += 3) {
      if (data[i] !== data[i - 3] || data[i + 1] !== data[i - 2]) continue
      ;[data[i - 1], data[i + 2]] = [data[i + 2]!, data[i - 1]!]
      return
    }
  }

const anotherSnapshot: Fault = () => {
  const snapshots = new Set<number>()
  return ({ states: { data, length } }) => {
    for (let i = 0; i < length; i += 3) {
      if (data[i + 1] === StateOperation.snapshot) snapshots.add(data[i + 2]!)
      if (data[i + 1] !== StateOperation.restore) continue
      data[i + 2] = [...snapshots].find((slot) => slot !== data[i + 2]) ?? data[i + 2]!
    }
  }
}

const windowFreedEarly: Fault =
  () =>
  ({ windowFrees: { data, length } }) => {
    for (let i = 0; i < length; i += 3) data[i + 2]!++
  }

const pageNotCopied: Fault = () => (plan) => plan.copies.clear()

/** Found by an answer's bits where nothing is wrong with the plan as such, by its refusal elsewhere. */
const faults: ReadonlyArray<readonly [model: Scenario["model"], name: string, Fault, violation: RegExp]> = [
  ["sliding", "pages found in the cache, swapped", pagesSwapped, /^(tokens|bitmaps|kept|logits): .* instead of /],
  ["recurrent", "pages found in the cache, swapped", pagesSwapped, /^(tokens|bitmaps|kept|logits): .* instead of /],
  ["recurrent", "another prompt's state restored", anotherSnapshot, /the state of slot \d+ has absorbed \d+ rows/],
  ["sliding", "a window's page given back early", windowFreedEarly, /is in page \d+, and \d+ were given back/],
  ["sliding", "a fork's last page not copied", pageNotCopied, /no copy fills it/],
]

describe("a fault in plans is found:", () => {
  it.each(faults)("%s: %s", { timeout: 1_200_000 }, async (model, _, fault, violation) => {
    const found: Array<string> = []
    for (let seed = 1; seed <= 12 && !violation.test(found.at(-1) ?? ""); seed++) {
      await runNative(models, { ...drawScenario(seed), model }, fault()).catch((cause: Error) =>
        found.push(cause.message),
      )
    }
    expect(found.at(-1)).toMatch(violation)
  })
})
