import { greedy } from "@uniprefill/executor/contract/Executor"
import type { ContentForSlot } from "./PlanBench.ts"
import { referenceForward } from "@uniprefill/executor/reference/ReferenceForward"
import { makeReferenceModel, referenceSpec, uniformNumbers } from "@uniprefill/executor/reference/ReferenceModel"
import { ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import { type DropSchedule, denseSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import type { LayerKind } from "@uniprefill/model/ModelSpec"
import { SelectionFlag } from "@uniprefill/scheduler/StepResult"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { logitsOf, PlanWriter, selectionsOf } from "./PlanWriter.ts"

const vocab = 64

/** Layers of every kind, with drop layers among the full ones but the last. */
const models = fc
  .record({
    kinds: fc.array(fc.constantFrom<LayerKind>("full", "full", "sliding", "state"), { minLength: 2, maxLength: 5 }),
    heads: fc.constantFrom(1, 2, 4),
    headDim: fc.constantFrom(2, 4, 6),
    hidden: fc.constantFrom(6, 8, 12),
    shareKv: fc.boolean(),
    window: fc.integer({ min: 1, max: 150 }),
    softCap: fc.constantFrom(0, 0, 5),
    drops: fc.array(fc.boolean(), { minLength: 5, maxLength: 5 }),
    p: fc.constantFrom(0, 0.3, 0.6, 0.9, 1),
    rule: fc.constantFrom<DropSchedule["rule"]>("exclusive", "reference"),
    windowBy: fc.constantFrom<DropSchedule["windowBy"]>("kept", "original"),
    sink: fc.constantFrom(0, 1, 64, 100),
    lastQ: fc.constantFrom(1, 17, 64),
    seed: fc.integer(),
  })
  .map((options) => {
    const { kinds, heads, headDim, hidden, window, softCap, seed, rule, windowBy, sink, lastQ } = options
    const kvHeads = options.shareKv ? 1 : heads
    // A model without any full layer still needs memory to page.
    const layers: ReadonlyArray<LayerKind> = ["full", ...kinds]
    const dropLayers = layers.flatMap((kind, layer) =>
      kind === "full" && layer < layers.length - 1 && options.drops[layer] ? [{ layer, p: options.p }] : [],
    )
    const spec = referenceSpec({ layers, heads, kvHeads, headDim, hidden, vocab, window, attentionSoftCap: softCap })
    const schedule: DropSchedule = { ...denseSchedule, dropLayers, rule, windowBy, sink, lastQ }
    return { model: makeReferenceModel(spec, seed), schedule }
  })

const requests = fc.array(
  fc.record({
    promptLength: fc.integer({ min: 1, max: 420 }),
    /** Output tokens that the request was preempted with. */
    replayed: fc.integer({ min: 0, max: 70 }),
    drop: fc.boolean(),
    decodes: fc.integer({ min: 0, max: 4 }),
  }),
  { minLength: 1, maxLength: 3 },
)

const randomTokens = (length: number, seed: number): Int32Array => {
  const uniform = uniformNumbers(seed)
  return Int32Array.from({ length }, () => Math.floor(uniform() * vocab))
}

const floatBits = (row: Float64Array): Int32Array => new Int32Array(Float32Array.from(row).buffer)

describe("ReferenceRunner", () => {
  it("computes any mix of chunks, fused items, decodes and kinds of layers as one whole pass would, bit by bit", () => {
    const cuts = fc.record({
      seed: fc.integer(),
      most: fc.constantFrom(1, 64, 100, 1000),
      pageSize: fc.constantFrom(64, 128),
    })
    fc.assert(
      fc.property(models, requests, cuts, ({ model, schedule }, all, cut) => {
        const runner = new ReferenceRunner({
          model,
          schedule,
          pageSize: cut.pageSize,
          slabs: 4000,
          maxRowsPerStep: 4000,
        })
        const writer = new PlanWriter(runner, schedule)
        const uniform = uniformNumbers(cut.seed)
        const selections = new Map<number, Array<Uint32Array>>()
        const logits = new Map<number, Array<Int32Array>>()
        const contents = all.map(({ promptLength, replayed, drop }, slot): ContentForSlot => {
          const pQ32 = drop ? schedule.dropLayers.map(({ p }) => pToQ32(p)) : null
          const tokens = randomTokens(promptLength + replayed, cut.seed + slot)
          return {
            slot,
            tokens,
            promptLength,
            pQ32,
            bitmaps: [],
            sampling: greedy,
            returnLogits: true,
            promptLogprobs: -1,
          }
        })
        for (const content of contents) {
          writer.open(content)
          selections.set(content.slot, [])
          logits.set(content.slot, [])
        }
        const done = (slot: number) => logits.get(slot)!.length > all[slot]!.decodes
        for (let step = 0; writer.requests.size > 0; step++) {
          expect(step).toBeLessThan(5000)
          const pieces = [...writer.requests].flatMap(([slot, { phase }]) => {
            if (phase !== "prefill" || uniform() < 0.3) return []
            const rows = Math.min(writer.remaining(slot), 1 + Math.floor(uniform() * cut.most))
            return [
              {
                slot,
                rows: cut.most === 1 ? Math.min(writer.remaining(slot), 37) : rows,
                runOn: Math.floor(uniform() * 3),
              },
            ]
          })
          const result = writer.step(pieces)
          for (const [slot, , flags, bitmap] of selectionsOf(result)) {
            expect(flags).toBe(0)
            selections.get(slot)!.push(bitmap)
          }
          for (const [slot, row] of logitsOf(result)) logits.get(slot)!.push(row)
          runner.checkIntegrity()
          for (const slot of Array.from(writer.requests.keys())) {
            if (!done(slot)) continue
            const { promptLength, pQ32, tokens } = contents[slot]!
            const output = runner.outputOf(slot)
            const sampled = logits.get(slot)!.length
            const whole = [...tokens.subarray(0, promptLength), ...output.slice(0, output.length - 1)]
            const oracle = referenceForward(model, { tokens: whole, promptLength, schedule, pQ32 })
            expect(selections.get(slot)).toEqual(oracle.bitmaps)
            expect(logits.get(slot)).toEqual(oracle.logits.slice(-sampled).map(floatBits))
            writer.close(slot)
          }
        }
        writer.step([])
        expect(runner.checkIntegrity()).toEqual({ free: 4000, held: 0, cached: 0 })
      }),
      { numRuns: 30 },
    )
  })

  it("applies the bitmaps of a preempted request again instead of scoring", () => {
    const schedule: DropSchedule = {
      ...denseSchedule,
      dropLayers: [
        { layer: 0, p: 0.5 },
        { layer: 2, p: 0.5 },
      ],
      sink: 1,
      lastQ: 17,
    }
    const model = makeReferenceModel(referenceSpec({ layers: ["full", "sliding", "full", "state", "full"], vocab }), 3)
    const pQ32 = schedule.dropLayers.map(({ p }) => pToQ32(p))
    const tokens = randomTokens(500, 5)
    const base = { promptLength: 500, pQ32, sampling: greedy, returnLogits: true, promptLogprobs: -1 }
    const oracle = referenceForward(model, { tokens, promptLength: 500, schedule, pQ32 })
    expect(oracle.kept[1]!.length).toBeLessThan(500)
    expect(oracle.kept[2]!.length).toBeLessThan(oracle.kept[1]!.length)

    const runner = new ReferenceRunner({ model, schedule })
    const writer = new PlanWriter(runner, schedule)
    // Sets that scoring would not have chosen: the blocks are shifted, so only a replay gives them.
    const other = [Uint32Array.of(0b00101010), Uint32Array.of(0b00000010)]
    expect(other[0]).not.toEqual(oracle.bitmaps[0])
    for (const given of [0, 1, 2]) {
      writer.open({ ...base, slot: given, tokens, bitmaps: other.slice(0, given) })
      const result = writer.step([{ slot: given, rows: 500, runOn: 2 }])
      const flags = selectionsOf(result).map(([, , flag]) => flag)
      expect(flags).toEqual([0, 1].map((i) => (i < given ? SelectionFlag.replayed : 0)))
      const expected = referenceForward(model, {
        tokens,
        promptLength: 500,
        schedule,
        pQ32,
        bitmaps: other.slice(0, given),
      })
      expect(logitsOf(result).get(given)).toEqual(floatBits(expected.logits[0]!))
      writer.close(given)
    }
  })

  it("keeps every block at p = 1 exclusive, and then equals a request that does not drop", () => {
    const schedule: DropSchedule = { ...denseSchedule, dropLayers: [{ layer: 1, p: 1 }], sink: 64, lastQ: 64 }
    const model = makeReferenceModel(referenceSpec({ layers: ["full", "full", "full"], vocab }), 11)
    const tokens = randomTokens(450, 2)
    const drop = referenceForward(model, { tokens, promptLength: 450, schedule, pQ32: [pToQ32(1)] })
    const dense = referenceForward(model, { tokens, promptLength: 450, schedule, pQ32: null })
    expect(drop.kept[1]).toHaveLength(450)
    expect(drop.logits).toEqual(dense.logits)
  })
})
