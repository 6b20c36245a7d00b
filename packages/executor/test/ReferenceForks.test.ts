import { greedy } from "@uniprefill/executor/contract/Executor"
import { makeReferenceModel, referenceSpec } from "@uniprefill/executor/reference/ReferenceModel"
import { ReferenceRunner, type ReferenceRunnerOptions } from "@uniprefill/executor/reference/ReferenceRunner"
import { type DropSchedule, denseSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { StateOperation } from "@uniprefill/scheduler/StepPlan"
import { beforeEach, describe, expect, it } from "vitest"
import { type ContentForSlot, grant, PlanBench, type Sections } from "./PlanBench.ts"
import { logitsOf } from "./PlanWriter.ts"

const { zero, snapshot, restore } = StateOperation
const schedule: DropSchedule = { ...denseSchedule, dropLayers: [{ layer: 0, p: 0.5 }], sink: 64, lastQ: 64 }
const full = makeReferenceModel(
  referenceSpec({ layers: ["full", "full"], heads: 2, kvHeads: 1, headDim: 8, hidden: 16 }),
  1,
)

const prompt = Int32Array.from({ length: 200 }, (_, i) => (i * 7) % 64)
const content = (slot: number, drop: boolean, more: Partial<ContentForSlot> = {}): ContentForSlot => ({
  slot,
  tokens: prompt,
  promptLength: 200,
  pQ32: drop ? [pToQ32(0.5)] : null,
  bitmaps: [],
  sampling: { ...greedy, temperature: 2, seed: BigInt(slot) },
  returnLogits: true,
  promptLogprobs: -1,
  ...more,
})

// Two layers of one K/V head of 8 and a carry of 16 numbers: every page is one slab. Tables: 0 and 1 K/V, 2 carry.

let bench: PlanBench

const start = (options: Partial<ReferenceRunnerOptions>) => {
  bench = new PlanBench(() => new ReferenceRunner({ model: full, slabs: 60, slots: 5, stateSlots: 5, ...options }))
}
const run = (sections: Sections) => bench.run(sections)
const refusal = (sections: Sections) => bench.refusal(sections)

/** Slots 0 and 1 do not drop and have a token each from one prefill, in slabs 0 to 7; slot 1 has no pages. */
const beginDense = () => {
  for (const slot of [0, 1]) bench.open(content(slot, false))
  run({ grants: [...grant(0, 0, 0, 4), ...grant(0, 1, 4, 4)], items: [0, 0, 200, 0, 1], samples: [0, 0, 0, 1] })
}
/** What gives slot 1 its pages: three by reference, the fourth as a copy. */
const shared = {
  maps: [1, 0, 0, 1, 0, 1, 1, 0, 2, 1, 1, 4, 1, 1, 5, 1, 1, 6],
  grants: [1, 0, 10, 1, 1, 11],
  copies: [3, 10, 7, 11],
}
/** The same slot alone, in slabs from 20 on. */
const ownLogits = (decodes: number): Array<Int32Array> => {
  bench.open({ ...content(3, false), sampling: content(1, false).sampling })
  const grants = [...grant(3, 0, 20, 4), ...grant(3, 1, 24, 4)]
  const logits = [run({ grants, items: [3, 0, 200, 0, 1], samples: [0, 3] })]
  for (let i = 0; i < decodes; i++) logits.push(run(i === 0 ? { joins: [3, -1] } : {}))
  return logits.map((result) => logitsOf(result).get(3)!)
}

describe("a second slot goes on from a prefill", () => {
  beforeEach(() => start({ schedule }))

  it("and shares full pages, which are free when the last of them goes", () => {
    beginDense()
    const logits = [run({ ...shared, joins: [0, -1, 1, -1] }), run({})].map((result) => logitsOf(result).get(1)!)
    expect(bench.integrity()).toEqual({ free: 50, held: 10, cached: 0 })
    bench.close(0)
    logits.push(logitsOf(run({})).get(1)!)
    expect(bench.integrity()).toEqual({ free: 52, held: 8, cached: 0 })
    expect(refusal({ grants: [1, 0, 0] })).toBe("grants[0]: slab 0 is not free")
    bench.close(1)
    expect(bench.integrity()).toEqual({ free: 60, held: 0, cached: 0 })
    expect(logits).toEqual(ownLogits(3).slice(1))
  })

  it("also when the first has decoded meanwhile, and from pages that the cache has taken too", () => {
    beginDense()
    run({ joins: [0, -1] })
    run({ retains: [0, 1, 2, 4, 5, 6] })
    const logits = logitsOf(run({ ...shared, joins: [1, -1] })).get(1)!
    bench.close(0)
    expect(bench.integrity()).toEqual({ free: 52, held: 8, cached: 0 })
    expect(logits).toEqual(ownLogits(1)[1])
  })

  it("but is refused where it has something of its own or is another request", () => {
    bench.open(content(0, true))
    const prefill = {
      grants: [...grant(0, 0, 0, 4), ...grant(0, 1, 4, 4), ...grant(0, 2, 8, 4)],
      items: [0, 0, 200, 0, 1],
    }
    const fault = (change: Partial<ContentForSlot>, before: Sections = {}) => {
      bench.open(content(1, true, change))
      const grants = [...prefill.grants, ...(before.grants ?? [])]
      const items = [...prefill.items, ...(before.items ?? [])]
      const detail = refusal({ grants, items, samples: [0, 0, 0, 1] })
      bench.withdraw(1)
      return detail.replace("samples[1]: slot 1 cannot go on from slot 0: it ", "")
    }
    expect(fault({ tokens: prompt.with(7, 1) })).toBe("holds other tokens")
    expect(fault({ tokens: prompt.slice(0, 199), promptLength: 199 })).toBe("holds other tokens")
    expect(fault({ promptLength: 199 })).toBe("holds other tokens")
    expect(fault({ pQ32: null })).toBe("drops otherwise")
    expect(fault({ pQ32: [pToQ32(0.6)] })).toBe("drops otherwise")
    expect(fault({ bitmaps: [Uint32Array.of(0)] })).toBe("brings other selections")
    expect(fault({}, { grants: grant(1, 0, 20, 1) })).toBe("has pages of its own")
    const own = { grants: [...grant(1, 0, 20, 1), ...grant(1, 2, 21, 1)], items: [1, 0, 64, 0, 0] }
    expect(fault({}, own)).toBe("has rows of its own")
    expect(refusal({ ...prefill, samples: [0, 0, 0, 2] })).toBe("samples[1]: slot 2 is not open")
    bench.open(content(1, true))
    expect(refusal({ ...prefill, samples: [0, 1, 0, 1] })).toBe("samples[1]: slot 1 is sampled twice")
    run({ ...prefill, samples: [0, 0, 0, 1] })
  })

  it("but nobody writes a page that two tables hold, that was cached, or that is not there", () => {
    beginDense()
    expect(refusal({ joins: [1, -1] })).toBe("decode set: slot 1 table 0 (full): 201 rows need 4 pages, it holds 0")
    // The copy is missing: the partial page is shared like the others.
    const maps = [...shared.maps.slice(0, 9), 1, 0, 3, ...shared.maps.slice(9), 1, 1, 7]
    for (const slot of [0, 1]) {
      expect(refusal({ maps, joins: [slot, -1] })).toBe(
        `decode set: slot ${slot} table 0 (full): rows from 200 would write slab 3, which 2 tables hold`,
      )
    }
    expect(refusal({ ...shared, retains: [3], joins: [0, -1] })).toBe(
      "decode set: slot 0 table 0 (full): rows from 200 would write slab 3, which is read-only since it was cached",
    )
    expect(refusal({ maps: [1, 0, 30] })).toBe("maps[0]: slab 30 is free: neither the cache nor a table holds it")
    expect(refusal({ trims: [0, 0, 0], maps: [1, 0, 0] })).toBe(
      "trims[0]: table 0 of slot 0 is left with room for 0 rows, 200 are still needed",
    )
    expect(refusal({ copies: [3, 7] })).toBe("copies[0]: target slab 7 is not granted in this step")
    expect(refusal({ grants: [1, 0, 10], copies: [30, 10] })).toBe("copies[0]: source slab 30 is free")
    // A page with one holder left is that one's to write.
    run({ maps })
    bench.close(0)
    const [, decoded] = ownLogits(1)
    expect(logitsOf(run({ joins: [1, -1] })).get(1)).toEqual(decoded)
    expect(refusal({ maps: [1, 0, 3] })).toBe("maps[0]: slot 1 has computed 200, 0 rows, 1 decoded")
  })
})

describe("decode rows of a slot that drops", () => {
  const begin = () => {
    start({ schedule })
    bench.open(content(0, true))
    const grants = [...grant(0, 0, 0, 4), ...grant(0, 1, 4, 4), ...grant(0, 2, 8, 4)]
    run({ grants, items: [0, 0, 200, 0, 1], samples: [0, 0] })
  }

  it("write their carry only where its table reaches, and only to a page of the slot's own", () => {
    begin()
    expect(refusal({ retains: [11], joins: [0, -1] })).toBe(
      "decode set: slot 0 table 2 (carry): rows from 200 would write slab 11, which is read-only since it was cached",
    )
    run({ retains: [8, 9, 10], joins: [0, -1] })
    const written = logitsOf(run({})).get(0)
    begin()
    // The carries are given back, but for a page that is cached: nothing is written there.
    run({ retains: [8], trims: [0, 2, 1], joins: [0, -1] })
    expect(logitsOf(run({})).get(0)).toEqual(written)
  })
})

describe("windows and recurrent states", () => {
  // Table 0: the full layer, 1: two sliding layers, which see 40 rows; one layer a slab.
  const hybrid = makeReferenceModel(referenceSpec({ layers: ["full", "sliding", "state", "sliding"], window: 40 }), 2)
  const slot0 = { grants: [...grant(0, 0, 0, 4), ...grant(0, 1, 10, 8)], states: [0, zero, 0], samples: [0, 0] }

  beforeEach(() => {
    start({ model: hybrid, slots: 3 })
    for (const slot of [0, 1]) bench.open(content(slot, false))
  })

  it("of a fork are left out, mapped, copied and restored", () => {
    run({ ...slot0, items: [0, 0, 200, 0, 0], samples: [0, 0, 0, 1] })
    // Row 200 sees rows from 161 on: page 2 and the partial page 3, in slabs 14 to 17.
    const pages = {
      windowFrees: [0, 1, 2, 1, 1, 2],
      maps: [1, 0, 0, 1, 0, 1, 1, 0, 2, 1, 1, 14, 1, 1, 15],
      grants: [1, 0, 20, 1, 1, 21, 1, 1, 22],
      copies: [3, 20, 16, 21, 17, 22],
    }
    const joins = [0, -1, 1, -1]
    expect(refusal({ ...pages, joins })).toBe("decode set: slot 1 has no recurrent state")
    expect(refusal({ ...pages, joins, states: [1, zero, 1] })).toBe(
      "decode set: slot 1: state has absorbed 0 rows of segment 0, next is 200",
    )
    expect(refusal({ ...pages, joins, states: [1, zero, 0] })).toBe("states[0]: state slot 0 belongs to slot 0")
    expect(refusal({ ...pages, joins, states: [1, zero, 1, 1, restore, 3] })).toBe(
      "states[1]: state slot 3 holds no state",
    )
    expect(refusal({ ...pages, windowFrees: [0, 1, 2, 1, 1, 3], joins, states: [1, zero, 1, 1, restore, 0] })).toBe(
      "decode set: slot 1 table 1 (sliding): row 161 is in page 2, 3 were given back",
    )
    const forked = run({ ...pages, joins, states: [1, zero, 1, 1, restore, 0] })
    run({})
    bench.close(0)
    const last = run({})
    bench.close(1)
    expect(bench.integrity()).toEqual({ free: 60, held: 0, cached: 0 })

    bench.open({ ...content(0, false), sampling: content(1, false).sampling })
    run({ ...slot0, items: [0, 0, 200, 0, 0] })
    expect(logitsOf(run({ joins: [0, -1] })).get(0)).toEqual(logitsOf(forked).get(1))
    run({})
    expect(logitsOf(run({})).get(0)).toEqual(logitsOf(last).get(1))
  })

  it("of a fork may come by way of a snapshot", () => {
    run({ ...slot0, items: [0, 0, 200, 0, 0], samples: [0, 0, 0, 1] })
    const pages = {
      maps: [1, 0, 0, 1, 0, 1, 1, 0, 2, ...[10, 11, 12, 13, 14, 15].flatMap((slab) => [1, 1, slab])],
      grants: [1, 0, 20, 1, 1, 21, 1, 1, 22],
      copies: [3, 20, 16, 21, 17, 22],
    }
    run({ states: [0, snapshot, 4], joins: [0, -1] })
    // The first has gone on: its running state is a row ahead, the snapshot is not.
    expect(refusal({ ...pages, states: [1, zero, 1, 1, restore, 0], joins: [1, -1] })).toBe(
      "decode set: slot 1: state has absorbed 201 rows of segment 0, next is 200",
    )
    const forked = run({ ...pages, states: [1, zero, 1, 1, restore, 4], joins: [1, -1] })
    bench.close(0)
    bench.open({ ...content(0, false), sampling: content(1, false).sampling })
    run({
      grants: [...grant(0, 0, 30, 4), ...grant(0, 1, 40, 8)],
      states: [0, zero, 0],
      items: [0, 0, 200, 0, 0],
      samples: [0, 0],
    })
    expect(logitsOf(run({ joins: [0, -1] })).get(0)).toEqual(logitsOf(forked).get(1))
  })

  it("of a prefix hit begin with the window's pages", () => {
    run({ ...slot0, items: [0, 0, 128, 0, 0], samples: [] })
    run({ retains: [0, 1, 12, 13], states: [0, snapshot, 4] })
    const cold = run({ items: [0, 128, 72, 0, 0], samples: [0, 0] })
    const hit = {
      windowFrees: [1, 1, 1],
      maps: [1, 0, 0, 1, 0, 1, 1, 1, 12, 1, 1, 13],
      grants: [...grant(1, 0, 20, 2), ...grant(1, 1, 22, 4)],
      states: [1, zero, 1, 1, restore, 4],
      items: [1, 128, 72, 0, 0],
      samples: [0, 1],
    }
    expect(refusal({ ...hit, windowFrees: [1, 1, 4] })).toBe("windowFrees[0]: leaves out 4 pages of 3")
    expect(refusal({ ...hit, windowFrees: [1, 1, 0] })).toBe("windowFrees[0]: leaves out 0 pages of 3")
    expect(refusal({ ...hit, windowFrees: [1, 0, 1] })).toBe("windowFrees[0]: table 0 is full, not sliding")
    expect(refusal({ ...hit, windowFrees: [1, 1, 1, 1, 1, 1] })).toBe("windowFrees[1]: gives back 1 pages of 0")
    // One page less counts as computed where a page of the window is missing.
    expect(refusal({ ...hit, windowFrees: [], items: [1, 64, 72, 0, 0] })).toBe(
      "items[0]: slot 1 table 0 (full): rows from 64 would write slab 1, which 2 tables hold",
    )
    expect(refusal({ ...hit, windowFrees: [1, 1, 2], maps: hit.maps.slice(0, 6) })).toBe(
      "items[0]: slot 1 table 1 (sliding): row 89 is in page 1, 2 were given back",
    )
    const warm = run(hit)
    expect(logitsOf(warm).get(1)).toEqual(logitsOf(cold).get(0))
    bench.close(0)
    expect(refusal({ windowFrees: [1, 1, 4] })).toBe("windowFrees[0]: gives back 4 pages of 3")
    run({ joins: [1, -1], windowFrees: [1, 1, 1] })
  })
})
