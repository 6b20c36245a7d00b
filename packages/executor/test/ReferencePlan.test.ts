import { greedy } from "@uniprefill/executor/contract/Executor"
import { makeReferenceModel, referenceSpec } from "@uniprefill/executor/reference/ReferenceModel"
import { ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import { type DropSchedule, denseSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { StateOperation } from "@uniprefill/scheduler/StepPlan"
import { beforeEach, describe, expect, it } from "vitest"
import { type ContentForSlot, grant, PlanBench, planOf, type Sections } from "./PlanBench.ts"
import { logitsOf } from "./PlanWriter.ts"

const schedule: DropSchedule = { ...denseSchedule, dropLayers: [{ layer: 0, p: 0.5 }], sink: 64, lastQ: 64 }
const model = makeReferenceModel(
  referenceSpec({ layers: ["full", "full"], heads: 2, kvHeads: 1, headDim: 8, hidden: 16 }),
  1,
)

const prompt = Int32Array.from({ length: 200 }, (_, i) => (i * 7) % 64)
const content = (slot: number, drop = true, length = 200): ContentForSlot => ({
  slot,
  tokens: prompt.slice(0, length),
  promptLength: length,
  pQ32: drop ? [pToQ32(0.5)] : null,
  bitmaps: [],
  sampling: greedy,
  returnLogits: true,
  promptLogprobs: -1,
})

// Two layers of one K/V head of 8 and a carry of 16 numbers: every page is one slab. Tables: 0 and 1 K/V, 2 carry.

let bench: PlanBench

const start = (make: () => ReferenceRunner) => {
  bench = new PlanBench(make)
}
const run = (sections: Sections) => bench.run(sections)
const refusal = (sections: Sections) => bench.refusal(sections)

beforeEach(() => {
  start(() => new ReferenceRunner({ model, schedule, slabs: 40, slots: 4, maxRowsPerStep: 300, maxTokens: 201 }))
  bench.open(content(0))
})

describe("a refused plan names section, record and numbers, and nothing is left of it", () => {
  const whole = () => [...grant(0, 0, 0, 4), ...grant(0, 2, 4, 4), ...grant(0, 1, 8, 4)]

  it("numbers", () => {
    expect(() => bench.runner.step(planOf(3, {}))).toThrow("step 3: step: id 3 after 0")
    expect(refusal({ grants: [0, 0, 40] })).toBe("grants[0]: slab 40 of 40")
    expect(refusal({ grants: [0, 3, 0] })).toBe("grants[0]: table 3 of 3")
    expect(refusal({ grants: [1, 0, 0] })).toBe("grants[0]: slot 1 is not open")
    expect(refusal({ items: [3, 0, 64, 0, 0] })).toBe("items[0]: slot 3 is not open")
    expect(refusal({ grants: [0, 0] })).toBe("grants: 2 integers, records have 3")
    expect(refusal({ items: [0, 0, 64, 0, 2] })).toBe("items[0]: segments 0 to 2 of 0 to 1")
    expect(refusal({ items: [0, 0, 201, 0, 0] })).toBe("items[0]: rows 0 to 201 of 200")
    expect(refusal({ samples: [0, 0] })).toBe("samples[0]: item 0 of 0")
  })

  it("slabs that are not free", () => {
    expect(refusal({ grants: [0, 0, 5, 0, 1, 5] })).toBe("grants[1]: slab 5 is not free")
    bench.open(content(1))
    run({ grants: grant(0, 0, 0, 1) })
    expect(refusal({ grants: grant(1, 0, 0, 1) })).toBe("grants[0]: slab 0 is not free")
    bench.close(0)
    run({ grants: grant(1, 0, 0, 1) })
  })

  it("rows without pages, out of order, or before their selection", () => {
    expect(refusal({ items: [0, 0, 64, 0, 0] })).toBe(
      "items[0]: slot 0 table 0 (full): 64 rows need 1 pages, it holds 0",
    )
    const grants = whole()
    expect(refusal({ grants, items: [0, 64, 64, 0, 0] })).toBe(
      "items[0]: first row 64, slot 0 has computed 0 of segment 0",
    )
    expect(refusal({ grants, items: [0, 0, 200, 1, 1] })).toBe("items[0]: segment 1, slot 0 has made 0 selections")
    expect(refusal({ grants, items: [0, 0, 64, 0, 1] })).toBe(
      "items[0]: runs on to segment 1, but ends at row 64 of 200",
    )
    expect(refusal({ grants, items: [0, 0, 64, 0, 0, 0, 64, 64, 0, 0] })).toBe("items[1]: slot 0 has two items")
    expect(refusal({ grants, items: [0, 0, 200, 0, 0], samples: [0, 0] })).toBe(
      "samples[0]: item 0 ends at row 200 of 200 in segment 0 of 1",
    )
    expect(refusal({ grants, joins: [0, -1] })).toBe("joins[0]: slot 0 is not prefilled: 0, 0 rows")
  })

  it("the K/V or carry that a later segment reads, given back too early", () => {
    run({ grants: whole(), items: [0, 0, 200, 0, 0] })
    expect(refusal({ trims: [0, 2, 3] })).toBe(
      "trims[0]: table 2 of slot 0 is left with room for 192 rows, 200 are still needed",
    )
    expect(refusal({ trims: [0, 0, 0] })).toBe(
      "trims[0]: table 0 of slot 0 is left with room for 0 rows, 200 are still needed",
    )
  })

  it("too many rows or tokens", () => {
    bench.open(content(1))
    const grants = [...whole(), ...grant(1, 0, 20, 4), ...grant(1, 2, 24, 4)]
    expect(refusal({ grants, items: [0, 0, 200, 0, 0, 1, 0, 128, 0, 0] })).toBe(
      "items[1]: 328 rows in the step, at most 300",
    )
    run({ grants: whole(), items: [0, 0, 200, 0, 1], samples: [0, 0] })
    run({ joins: [0, -1] })
    expect(refusal({})).toBe("decode set: slot 0 is at token 201, at most 201")
    run({ leaves: [0] })
    expect(refusal({ leaves: [0] })).toBe("leaves[0]: slot 0 is not in the decode set")
  })

  it("writes to a page that the cache or another request reads", () => {
    run({ grants: whole(), items: [0, 0, 100, 0, 0] })
    expect(refusal({ retains: [1], items: [0, 100, 28, 0, 0] })).toBe(
      "items[0]: slot 0 table 0 (full): rows from 100 would write slab 1, which is read-only since it was cached",
    )
    expect(refusal({ retains: [30] })).toBe("retains[0]: slab 30 is free")
    expect(refusal({ evictions: [0] })).toBe("evictions[0]: slab 0 is not cached")
    expect(refusal({ maps: [0, 0, 0] })).toBe("maps[0]: slot 0 has computed 100, 0 rows, 0 decoded")
    expect(refusal({ copies: [1, 0] })).toBe("copies[0]: target slab 0 is not granted in this step")
  })
})

describe("memory", () => {
  it("keeps cached pages when their request closes, and gives a second one the same rows", () => {
    const all = (slot: number, from: number) => [
      ...grant(slot, 0, from, 4),
      ...grant(slot, 2, from + 4, 4),
      ...grant(slot, 1, from + 8, 4),
    ]
    run({ grants: all(0, 0), items: [0, 0, 200, 0, 1], samples: [0, 0] })
    run({ retains: [0, 1, 4, 5] })
    bench.close(0)
    expect(bench.integrity()).toEqual({ free: 36, held: 0, cached: 4 })

    // Two pages of K/V and carry are found in the cache: the item begins at row 128.
    bench.open(content(1))
    const hit = run({
      maps: [1, 0, 0, 1, 0, 1, 1, 2, 4, 1, 2, 5],
      grants: [...grant(1, 0, 10, 2), ...grant(1, 2, 12, 2), ...grant(1, 1, 14, 4)],
      items: [1, 128, 72, 0, 1],
      samples: [0, 1],
    })
    bench.open(content(2))
    const cold = run({ grants: all(2, 20), items: [2, 0, 200, 0, 1], samples: [0, 2] })
    expect(logitsOf(hit).get(1)).toEqual(logitsOf(cold).get(2))

    bench.close(1)
    bench.close(2)
    run({ evictions: [0, 1, 4, 5] })
    expect(bench.integrity()).toEqual({ free: 40, held: 0, cached: 0 })
  })

  it("only selects and goes on when every row of the first segment is cached", () => {
    bench.withdraw(0)
    bench.open(content(0, true, 192))
    const first = run({
      grants: [...grant(0, 0, 0, 3), ...grant(0, 2, 3, 3), ...grant(0, 1, 6, 3)],
      items: [0, 0, 192, 0, 1],
      samples: [0, 0],
    })
    run({ retains: [0, 1, 2, 3, 4, 5] })
    bench.open(content(1, true, 192))
    const hit = run({
      maps: [1, 0, 0, 1, 0, 1, 1, 0, 2, 1, 2, 3, 1, 2, 4, 1, 2, 5],
      grants: grant(1, 1, 10, 3),
      items: [1, 192, 0, 0, 1],
      samples: [0, 1],
    })
    expect(logitsOf(hit).get(1)).toEqual(logitsOf(first).get(0))
    expect(hit.selections.toArray().slice(1)).toEqual(first.selections.toArray().slice(1))
  })

  it("restores a snapshot of recurrent state where it was taken", () => {
    const hybrid = makeReferenceModel(referenceSpec({ layers: ["state", "full", "state"] }), 4)
    start(() => new ReferenceRunner({ model: hybrid, slabs: 20, slots: 3, stateSlots: 4 }))
    const { zero, snapshot, restore } = StateOperation
    for (const slot of [0, 1]) bench.open(content(slot, false))
    run({ grants: grant(0, 0, 0, 4), states: [0, zero, 0], items: [0, 0, 64, 0, 0] })
    expect(refusal({ states: [1, snapshot, 2] })).toBe("states[0]: slot 1 has no state")
    expect(refusal({ states: [1, zero, 0] })).toBe("states[0]: state slot 0 belongs to slot 0")
    run({ retains: [0], states: [0, snapshot, 2] })
    const cold = run({ items: [0, 64, 136, 0, 0], samples: [0, 0] })
    const grants = grant(1, 0, 10, 3)
    expect(refusal({ maps: [1, 0, 0], grants, states: [1, zero, 1], items: [1, 64, 136, 0, 0] })).toBe(
      "items[0]: slot 1: state has absorbed 0 rows of segment 0, next is 64",
    )
    const hit = run({
      maps: [1, 0, 0],
      grants,
      states: [1, zero, 1, 1, restore, 2],
      items: [1, 64, 136, 0, 0],
      samples: [0, 1],
    })
    expect(logitsOf(hit).get(1)).toEqual(logitsOf(cold).get(0))
  })
})

describe("a step", () => {
  const sections = { grants: [...grant(0, 0, 0, 4), ...grant(0, 2, 4, 4), ...grant(0, 1, 8, 4)] }
  it("that fails leaves contents, and its number comes again", () => {
    const { runner } = bench
    runner.putContent(7, content(1))
    expect(() => runner.step(planOf(1, { ...sections, opens: [0, 1], items: [0, 0, 201, 0, 0] }))).toThrow("201 of 200")
    expect(runner.storedContents).toBe(1)
    expect(() => runner.step(planOf(2, {}))).toThrow("step: id 2 after 0")
    expect(() => runner.step(planOf(1, { opens: [0, 7] }))).not.toThrow()
    expect(runner.openSlots).toBe(1)
  })

  it("closes a slot and opens it again with another content", () => {
    run({ ...sections, items: [0, 0, 200, 0, 1], samples: [0, 0] })
    run({ joins: [0, -1] })
    bench.close(0)
    bench.open({ ...content(0), promptLength: 100 })
    run({ grants: grant(0, 0, 0, 2) })
    expect(bench.integrity()).toEqual({ free: 38, held: 2, cached: 0 })
  })

  it("reports what each prompt row says of the next token, chunk by chunk", () => {
    bench.withdraw(0)
    bench.open({ ...content(0, false), promptLogprobs: 2 })
    const grants = [...grant(0, 0, 0, 4), ...grant(0, 1, 4, 4)]
    const results = [run({ grants, items: [0, 0, 128, 0, 1] }), run({ items: [0, 128, 72, 0, 1], samples: [0, 0] })]
    const rows = results.flatMap(({ promptLogprobs: { data, length } }) => {
      const list: Array<number> = []
      for (let at = 0; at < length; at += 3 + 2 * data[at + 2]!) {
        expect([data[at], data[at + 2], data[at + 3]]).toEqual([0, 3, prompt[data[at + 1]! + 1]])
        list.push(data[at + 1]!)
      }
      return list
    })
    expect(rows).toEqual(Array.from({ length: 199 }, (_, row) => row))
  })
})

describe("putContent refuses", () => {
  const put = (change: Partial<ContentForSlot>) => () => bench.runner.putContent(2, { ...content(1), ...change })
  it("an id that is taken", () => {
    expect(() => bench.runner.putContent(1, content(0))).toThrow("put content 1: the id is taken")
  })
  it.each([
    ["promptLength 0 with 200 tokens", { promptLength: 0 }],
    ["promptLength 201 with 200 tokens", { promptLength: 201 }],
    ["202 tokens, at most 201", { tokens: new Int32Array(202), promptLength: 202 }],
    ["token 64 of 64", { tokens: Int32Array.of(64), promptLength: 1 }],
    ["pQ32 has 0 values, the schedule selects 1 times", { pQ32: [] }],
    ["pQ32 8589934592 is not in 0 to 4294967296", { pQ32: [1n << 33n] }],
    ["bitmap 0 has 2 words, 200 rows need 1", { bitmaps: [new Uint32Array(2)] }],
    ["bitmap 0 has bits beyond its 4 blocks", { bitmaps: [Uint32Array.of(16)] }],
    ["1 bitmaps for a request that does not drop", { pQ32: null, bitmaps: [new Uint32Array(1)] }],
    ["temperature -1 is not ≥ 0", { sampling: { ...greedy, temperature: -1 } }],
    ["topP 0 is not in (0, 1]", { sampling: { ...greedy, topP: 0 } }],
    ["allowedTokenIds is empty", { sampling: { ...greedy, allowedTokenIds: [] } }],
    ["logitBias names token 64 of 64", { sampling: { ...greedy, logitBias: [[64, 1]] } }],
    ["promptLogprobs -2 is not in -1 to 64", { promptLogprobs: -2 }],
    ["promptLogprobs 0 in a request that drops", { promptLogprobs: 0 }],
  ] as ReadonlyArray<[string, Partial<ContentForSlot>]>)("%s", (message, change) => {
    expect(put(change)).toThrow(message)
    expect(bench.runner.storedContents).toBe(1)
  })
})
