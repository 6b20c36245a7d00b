/**
 * What requests share: answers that go on from one prefill, and pages that others have computed or generated. On the reference
 * runner, which has every kind of layer; each test sees that what it is about did happen.
 */
import { fromRunner } from "@uniprefill/executor/reference/ReferenceExecutor"
import { makeReferenceModel, referenceSpec } from "@uniprefill/executor/reference/ReferenceModel"
import { ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import { denseSchedule, pToQ32, type DropSchedule } from "@uniprefill/model/DropSchedule"
import type { LayerKind } from "@uniprefill/model/ModelSpec"
import type { DriverConfig } from "@uniprefill/scheduler/Driver"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { describe, expect, it } from "vitest"
import { type LoopRequest, separate, serve, worstCase } from "./LoopServer.ts"
import { promptOf } from "./Prompts.ts"
import { same, sameUpToAbort } from "./SameAnswer.ts"

interface Kind {
  readonly name: string
  readonly layers: ReadonlyArray<LayerKind>
  readonly windowBy?: DropSchedule["windowBy"]
}
const full: Kind = { name: "full attention", layers: ["full", "full", "full"] }
const hybrids: ReadonlyArray<Kind> = [
  { name: "windows of kept rows", layers: ["full", "sliding", "full", "sliding"], windowBy: "kept" },
  { name: "windows of original rows", layers: ["full", "sliding", "full", "sliding"], windowBy: "original" },
  { name: "windows first", layers: ["sliding", "full", "sliding", "full"], windowBy: "kept" },
  { name: "recurrent states", layers: ["state", "full", "state", "full"] },
  { name: "windows and states", layers: ["sliding", "full", "state", "full"], windowBy: "original" },
]

const machineOf = ({ layers, windowBy = "kept" }: Kind) => {
  const model = makeReferenceModel(referenceSpec({ layers, window: 96 }), 21)
  const schedule: DropSchedule = {
    ...denseSchedule,
    dropLayers: [{ layer: layers.indexOf("full"), p: 0.5 }],
    windowBy,
    block: 16,
    sink: 16,
    lastQ: 32,
    minPromptTokens: 100,
  }
  const runner = (slabs = 4000) =>
    new ReferenceRunner({ model, schedule, slabs, slots: 8, stateSlots: 20, maxTokens: 1024, maxRowsPerStep: 256 })
  const run = (
    requests: ReadonlyArray<LoopRequest>,
    { slabs, altered, ...config }: Partial<DriverConfig> & { altered?: (plan: StepPlan) => void } = {},
  ) => serve(fromRunner(runner(slabs)), schedule, requests, { resumeEvery: 128, ...config }, altered)
  return { runner, run }
}

const half = [pToQ32(0.5)]
const request = (over: Partial<LoopRequest> = {}): LoopRequest => ({
  prompt: promptOf(300, 64, 8, 200),
  maxTokens: 40,
  pQ32: half,
  sampling: { temperature: 2, seed: 5n },
  ...over,
})

/** What each answer is when asked for alone. */
const aloneOf = async ({ run }: ReturnType<typeof machineOf>, of: LoopRequest) => {
  const answers = []
  for (const single of separate(of)) answers.push((await run([single])).answers[0]!)
  expect(new Set(answers.map(({ tokens }) => tokens.join(" "))).size).toBe(answers.length)
  return answers
}

describe.each([full, ...hybrids])("several answers over $name", (kind) => {
  const machine = machineOf(kind)
  it.each([
    { what: "that drops", of: request({ answers: 4 }) },
    { what: "that does not drop", of: request({ answers: 4, pQ32: null }) },
    { what: "of whole pages", of: request({ answers: 3, prompt: promptOf(256, 64, 3), pQ32: null }) },
    { what: "of one token", of: request({ answers: 3, prompt: [7], pQ32: null }) },
  ])("to a prompt $what are those of separate requests, and it is computed once", async ({ of }) => {
    const alone = await aloneOf(machine, of)
    for (const maxStepsInFlight of [1, 2] as const) {
      let copies = 0
      const altered = (plan: StepPlan) => void (copies += plan.copies.length)
      const { answers, prefillRows } = await machine.run([of], { maxStepsInFlight, altered, stepBudgetMicros: 70 })
      for (const [i, answer] of [answers[0]!, ...answers[0]!.others].entries()) same(answer, alone[i]!)
      expect(prefillRows).toBe(of.prompt.length)
      // Forks get copies of a page that is not full.
      expect(copies > 0).toBe(of.prompt.length % 64 > 0)
    }
  })

  it("survive preemption, and the loss of one of them, in little memory", async () => {
    const of = request({ answers: 3, prompt: promptOf(150, 64, 8), maxTokens: 150 })
    const dense: LoopRequest = { ...of, pQ32: null }
    const alone = [await aloneOf(machine, of), await aloneOf(machine, dense)]
    const { driver } = await machine.run([])
    // Both are admitted, and cannot both grow to their ends.
    const slabs = Math.max(worstCase(driver, of), worstCase(driver, dense))
    let preemptions = 0
    let aborted = 0
    for (const maxStepsInFlight of [1, 2] as const) {
      for (const abortAt of [1, 4, 100]) {
        for (const abortAnswer of [0, 1]) {
          const requests = [
            { ...of, abortAt, abortAnswer },
            { ...dense, at: 2 },
          ]
          const outcome = await machine.run(requests, { slabs, maxStepsInFlight, headroomTokens: 0 })
          preemptions += outcome.driver.scheduler.preemptions
          for (const [n, first] of outcome.answers.entries()) {
            for (const [i, answer] of [first, ...first.others].entries()) {
              sameUpToAbort(answer, alone[n]![i]!)
              if (answer.reason !== "abort") continue
              aborted++
              // The first answer takes the others with it until the prompt is computed.
              const with0 = abortAnswer === 0 && answer.tokens.length === 0
              expect(n === 0 && (i === abortAnswer || with0), `request ${n}, answer ${i}`).toBe(true)
            }
          }
        }
      }
    }
    expect(preemptions).toBeGreaterThanOrEqual(12)
    expect(aborted).toBeGreaterThanOrEqual(12)
  })
})

describe.each([full, ...hybrids])("a prefix found in the cache, over $name,", (kind) => {
  const machine = machineOf(kind)
  const hitsOf = async (requests: ReadonlyArray<LoopRequest>, config: Partial<DriverConfig> = {}) => {
    const { answers, driver } = await machine.run(requests, config)
    const uncached = requests.map((one) => ({ ...one, cached: false }))
    const without = await machine.run(uncached)
    expect(without.driver.scheduler.memory.prefixHits).toBe(0)
    for (const [i, answer] of answers.entries()) {
      for (const [n, one] of [answer, ...answer.others].entries()) {
        same(one, [without.answers[i]!, ...without.answers[i]!.others][n]!)
      }
    }
    return driver.scheduler.memory.prefixHits
  }

  it.each([half, null])("of another prompt changes no answer", async (pQ32) => {
    const first = request({ pQ32, cached: true })
    const second = request({ pQ32, cached: true, prompt: promptOf(290, 64, 9, 200), at: 60, answers: 2 })
    // States are kept every 128 rows; windows too, and go on from between where the pages kept for that suffice.
    const possible = kind === full ? [192] : kind.layers.includes("state") ? [128] : [128, 192]
    for (const maxStepsInFlight of [1, 2] as const) {
      const hits = await hitsOf([first, second], { maxStepsInFlight })
      expect(possible).toContain(hits)
    }
  })

  it.each([half, null])("with tokens that were generated changes no answer", async (pQ32) => {
    const first = request({ pQ32, cached: true, maxTokens: 100, answers: 2 })
    const { answers } = await machine.run([first])
    const goesOn = (tokens: ReadonlyArray<number>, at: number) =>
      request({ pQ32, cached: true, prompt: [...Array.from(first.prompt), ...tokens, 9, 8, 7], at })
    const turns = [first, goesOn(answers[0]!.tokens, 150), goesOn(answers[0]!.others[0]!.tokens, 220)]
    for (const maxStepsInFlight of [1, 2] as const) {
      const hits = await hitsOf(turns, { maxStepsInFlight })
      // 300 prompt tokens and 99 generated ones: six pages each. States are kept at places of the prompt alone.
      expect(hits).toBe(kind.layers.includes("state") ? 2 * 256 : 2 * 384)
    }
  })
})

describe("copy-on-write", () => {
  const of = request({ answers: 3 })
  const machine = machineOf(full)
  const check = async (altered: (plan: StepPlan) => void) => {
    const alone = await aloneOf(machine, of)
    const { answers } = await machine.run([of], { altered })
    for (const [i, answer] of [answers[0]!, ...answers[0]!.others].entries()) same(answer, alone[i]!)
  }
  it("holds", () => expect(check(() => {})).resolves.toBeUndefined())

  it("is missed when the partial page is not copied", async () => {
    await expect(check((plan) => plan.copies.clear())).rejects.toThrow('reason: "error" instead of "length"')
  })

  it("is missed when another page is copied than the last", async () => {
    let first = -1
    const wrong = (plan: StepPlan) => {
      if (first < 0 && plan.grants.length > 0) first = plan.grants.data[2]!
      for (let i = 0; i < plan.copies.length; i += 2) plan.copies.data[i] = first
    }
    await expect(check(wrong)).rejects.toThrow(/^(?:tokens|logits): /)
  })

  it("is missed when the partial page is shared like the full ones: the plan is refused", async () => {
    const shared = (plan: StepPlan) => {
      for (let c = 0; c < plan.copies.length; c += 2) {
        const [source, target] = [plan.copies.data[c]!, plan.copies.data[c + 1]!]
        for (let g = 0; g < plan.grants.length; g += 3) {
          if (plan.grants.data[g + 2] !== target) continue
          plan.maps.push3(plan.grants.data[g]!, plan.grants.data[g + 1]!, source)
          plan.grants.data.copyWithin(g, g + 3, plan.grants.length)
          plan.grants.length -= 3
        }
      }
      plan.copies.clear()
    }
    await expect(check(shared)).rejects.toThrow(/rows from 300 would write slab \d+, which 3 tables hold/)
  })
})
