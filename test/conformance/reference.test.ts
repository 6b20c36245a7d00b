import { fromRunner } from "@uniprefill/executor/reference/ReferenceExecutor"
import { fc, test } from "@fast-check/vitest"
import { ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import { referenceForward } from "@uniprefill/executor/reference/ReferenceForward"
import { makeReferenceModel, referenceSpec, type ReferenceModel } from "@uniprefill/executor/reference/ReferenceModel"
import { denseSchedule, pToQ32, type DropSchedule } from "@uniprefill/model/DropSchedule"
import type { LayerKind } from "@uniprefill/model/ModelSpec"
import { describe, expect, it } from "vitest"
import { same, sameUpToAbort } from "./SameAnswer.ts"
import { type LoopAnswer, type LoopRequest, separate, serve, worstCase } from "./LoopServer.ts"
import { promptOf } from "./Prompts.ts"

const kinds = fc
  .array(fc.constantFrom<LayerKind>("full", "full", "sliding", "state"), { minLength: 1, maxLength: 4 })
  .map((layers): ReadonlyArray<LayerKind> => [...layers, "full"])

const cases = fc
  .record({
    layers: fc.oneof(
      fc.integer({ min: 2, max: 5 }).map((n) => Array<LayerKind>(n).fill("full")),
      kinds,
    ),
    headDim: fc.constantFrom(4, 8),
    kvHeads: fc.constantFrom(1, 2),
    group: fc.constantFrom(1, 2, 3),
    drops: fc.array(fc.nat({ max: 4 }), { maxLength: 3 }),
    p: fc.double({ min: 0.3, max: 1, noNaN: true }),
    rule: fc.constantFrom("exclusive" as const, "reference" as const),
    window: fc.constantFrom(24, 96),
    windowBy: fc.constantFrom("kept" as const, "original" as const),
    block: fc.constantFrom(16, 32, 64),
    sink: fc.constantFrom(0, 16, 40),
    lastQ: fc.constantFrom(16, 33, 64),
    pageSize: fc.constantFrom(64, 128, 192),
    seed: fc.nat(),
    requests: fc.array(
      fc.record({
        length: fc.oneof(fc.integer({ min: 1, max: 130 }), fc.integer({ min: 130, max: 300 })),
        maxTokens: fc.integer({ min: 1, max: 40 }),
        drop: fc.boolean(),
        shared: fc.oneof(fc.constant(0), fc.integer({ min: 64, max: 300 })),
        cached: fc.constantFrom(true, true, false),
        higherP: fc.double({ min: 0, max: 1, noNaN: true }),
        at: fc.oneof(fc.nat({ max: 8 }), fc.nat({ max: 60 })),
        seed: fc.nat(),
        temperature: fc.constantFrom(0, 0, 0.8),
        answers: fc.constantFrom(1, 1, 2, 3),
        abortAt: fc.option(fc.integer({ min: 0, max: 20 }), { nil: undefined, freq: 3 }),
        abortAnswer: fc.nat({ max: 2 }),
      }),
      { minLength: 1, maxLength: 4 },
    ),
    spareStates: fc.constantFrom(0, 2, 6),
    resumeEvery: fc.constantFrom(64, 128, 256, 4096),
    budget: fc.constantFrom(70, 200, 500, 5000),
    maxRowsPerStep: fc.constantFrom(100, 256, 1024),
    maxStepsInFlight: fc.constantFrom(1 as const, 2 as const),
    memory: fc.double({ min: 1, max: 2, noNaN: true }),
  })
  .map((one) => {
    const dropLayers = [...new Set(one.drops)]
      .filter((layer) => layer < one.layers.length - 1 && one.layers[layer] === "full")
      .sort((a, b) => a - b)
      .map((layer) => ({ layer, p: one.p }))
    const { rule, block, sink, lastQ, windowBy } = one
    const schedule: DropSchedule = { dropLayers, rule, block, sink, lastQ, windowBy, minPromptTokens: 100 }
    return { ...one, schedule }
  })

type Case = typeof cases extends fc.Arbitrary<infer C> ? C : never

const modelOf = ({ layers, headDim, kvHeads, group, window, seed }: Case): ReferenceModel =>
  makeReferenceModel(referenceSpec({ layers, headDim, kvHeads, heads: kvHeads * group, hidden: 16, window }), seed)

const requestsOf = (one: Case): ReadonlyArray<LoopRequest> =>
  one.requests.map(({ length, drop, higherP, shared, seed, temperature, ...rest }) => ({
    ...rest,
    prompt: promptOf(length, 64, seed, shared),
    pQ32: drop ? one.schedule.dropLayers.map(({ p }) => pToQ32(Math.max(p, higherP))) : null,
    sampling: { temperature, seed: BigInt(seed) },
  }))

const runner = (one: Case, model: ReferenceModel, slabs: number, maxRowsPerStep = one.maxRowsPerStep) =>
  new ReferenceRunner({
    model,
    schedule: one.schedule,
    pageSize: one.pageSize,
    slabs,
    slots: 4,
    stateSlots: 4 + one.spareStates,
    maxRowsPerStep,
    maxTokens: 1024,
  })

describe("a request's answer is the same, bit by bit,", () => {
  test.prop({ one: cases }, { numRuns: Number(process.env["UNIPREFILL_PROPERTY_RUNS"] ?? 12) })(
    "alone in one step and cut, batched, forked, preempted and overlapped with others; and it is the oracle's",
    async ({ one }) => {
      const model = modelOf(one)
      const requests = requestsOf(one)
      const alone: Array<ReadonlyArray<LoopAnswer>> = []
      let largest = 0
      for (const request of requests) {
        const whole: Array<LoopAnswer> = []
        alone.push(whole)
        for (const single of separate(request)) {
          const { answers, driver } = await serve(fromRunner(runner(one, model, 20_000, 1024)), one.schedule, [single])
          whole.push(answers[0]!)
          largest = Math.max(largest, worstCase(driver, request))
        }
      }
      const crowded = runner(one, model, Math.ceil(largest * one.memory))
      const { answers, driver } = await serve(fromRunner(crowded), one.schedule, requests, {
        stepBudgetMicros: one.budget,
        idleStepBudgetMicros: one.budget,
        maxStepsInFlight: one.maxStepsInFlight,
        maxPrefillWaitMicros: 3,
        resumeEvery: one.resumeEvery,
      })
      expect(crowded.checkIntegrity()).toEqual({
        free: driver.scheduler.memory.pool.free,
        held: 0,
        cached: driver.scheduler.memory.tree.slabs,
      })
      for (const [i, first] of answers.entries()) {
        for (const [n, answer] of [first, ...first.others].entries()) {
          sameUpToAbort(answer, alone[i]![n]!)
          expect(answer.reason === "abort" && requests[i]!.abortAt === undefined).toBe(false)
        }
        const whole = alone[i]![0]!
        const { prompt, pQ32 } = requests[i]!
        const drops =
          pQ32 !== null && one.schedule.dropLayers.length > 0 && prompt.length >= one.schedule.minPromptTokens
        const forward = referenceForward(model, {
          tokens: [...Array.from(prompt), ...whole.tokens.slice(0, -1)],
          promptLength: prompt.length,
          schedule: one.schedule,
          pQ32: drops ? pQ32 : null,
          bitmaps: whole.bitmaps,
        })
        const bits = forward.logits.map((row) => new Int32Array(Float32Array.from(row).buffer))
        expect(whole.logits).toEqual(bits)
        if (drops) expect(whole.kept).toEqual(forward.kept.map((rows) => rows.length))
      }
    },
    600_000,
  )
})

describe("dropping", () => {
  const model = makeReferenceModel(referenceSpec({ layers: ["full", "full", "full", "full"] }), 3)
  const schedule: DropSchedule = {
    ...denseSchedule,
    dropLayers: [
      { layer: 0, p: 0.5 },
      { layer: 2, p: 0.5 },
    ],
    block: 16,
    sink: 16,
    lastQ: 16,
    minPromptTokens: 100,
  }
  const answer = async (at: DropSchedule, pQ32: ReadonlyArray<bigint> | null, length = 400) => {
    const one = new ReferenceRunner({ model, schedule: at, slabs: 5000 })
    const { answers } = await serve(fromRunner(one), at, [{ prompt: promptOf(length, 64, 9), maxTokens: 12, pQ32 }])
    return answers[0]!
  }

  it("drops rows, and more at each selection", async () => {
    const { kept } = await answer(schedule, [pToQ32(0.5), pToQ32(0.5)])
    expect(kept).toHaveLength(3)
    expect(kept[1]).toBeLessThan(400)
    expect(kept[2]).toBeLessThan(kept[1]!)
  })

  it("at p = 1 keeps every block and is dense, bit by bit", async () => {
    const all = await answer(schedule, [pToQ32(1), pToQ32(1)])
    expect(all.kept).toEqual([400, 400, 400])
    const dense = await answer(schedule, null)
    expect(all.tokens).toEqual(dense.tokens)
    expect(all.logits).toEqual(dense.logits)
  })

  it("with no drop layers is dense, bit by bit", async () => {
    const none = await answer({ ...schedule, dropLayers: [] }, [])
    const dense = await answer(schedule, null)
    expect(none.tokens).toEqual(dense.tokens)
    expect(none.logits).toEqual(dense.logits)
  })

  it("changes the answer's numbers: the equalities above compare something", async () => {
    const half = await answer(schedule, [pToQ32(0.5), pToQ32(0.5)])
    expect(half.logits).not.toEqual((await answer(schedule, null)).logits)
  })
})

describe("a prefix found in the cache", () => {
  const model = makeReferenceModel(referenceSpec({ layers: ["full", "full", "full"] }), 4)
  const schedule: DropSchedule = {
    ...denseSchedule,
    dropLayers: [{ layer: 1, p: 0.5 }],
    block: 16,
    sink: 16,
    lastQ: 16,
    minPromptTokens: 100,
  }
  const serveTwo = (first: LoopRequest, second: LoopRequest) =>
    serve(fromRunner(new ReferenceRunner({ model, schedule, slabs: 400, maxTokens: 1024 })), schedule, [
      first,
      { ...second, at: 60 },
    ])
  const request = (over: Partial<LoopRequest>): LoopRequest => ({
    prompt: promptOf(300, 64, 1, 200),
    maxTokens: 40,
    pQ32: [pToQ32(0.5)],
    cached: true,
    ...over,
  })

  it.each([
    { what: "of a request that drops", first: {}, second: { prompt: promptOf(280, 64, 2, 200) }, hit: 192 },
    {
      what: "that is the whole prompt, of one that drops",
      first: {},
      second: { prompt: promptOf(192, 64, 9, 200) },
      hit: 192,
    },
    {
      what: "of a request that does not drop",
      first: { pQ32: null },
      second: { pQ32: null, prompt: promptOf(280, 64, 2, 200) },
      hit: 192,
    },
    {
      what: "that is the whole prompt but for its last row, which is computed",
      first: { pQ32: null },
      second: { pQ32: null, prompt: promptOf(192, 64, 9, 200) },
      hit: 128,
    },
    { what: "is not shared between what drops and what does not", first: {}, second: { pQ32: null }, hit: 0 },
    { what: "finished in one step", first: { maxTokens: 1 }, second: {}, hit: 256 },
  ])("$what gives the answer it would have without", async ({ first, second, hit }) => {
    const { answers, driver } = await serveTwo(request(first), request(second))
    expect(driver.scheduler.memory.prefixHits).toBe(hit)
    const alone = await serveTwo(request(first), request({ ...second, cached: false }))
    expect(alone.driver.scheduler.memory.prefixHits).toBe(0)
    for (const i of [0, 1]) same(answers[i]!, alone.answers[i]!)
  })
})
