import { fc, test } from "@fast-check/vitest"
import type { SegmentWork } from "@uniprefill/model/Work"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { describe, expect, it } from "vitest"
import type { CostTable } from "@uniprefill/cost-model/CostTable"
import { RooflineCostModel } from "@uniprefill/cost-model/RooflineCostModel"

/** Round numbers: costs below can be followed by hand. */
const table: CostTable = {
  format: "uniprefill-cost-model",
  version: 1,
  device: "test",
  source: "assumed",
  gemmFlopsPerMicro: 100,
  attentionFlopsPerMicro: 10,
  bytesPerMicro: 50,
  stepMicros: 7,
  itemMicros: 3,
}
const segment: SegmentWork = {
  rowFlops: 1000,
  pairFlops: 40,
  entryPairFlops: 20,
  scorePairFlops: 5,
  weightBytes: 5000,
  decodeRowFlops: 2000,
  decodeWeightBytes: 10_000,
  decodeKeyBytes: 200,
  decodePairFlops: 30,
}
const model = new RooflineCostModel([segment, { ...segment, scorePairFlops: 0 }], table, 4)

interface Work {
  readonly decodeRows: number
  readonly items: number
  readonly decodeKeys: ReadonlyArray<number>
  readonly rows: ReadonlyArray<number>
  readonly pairs: ReadonlyArray<number>
  readonly entryPairs: ReadonlyArray<number>
  readonly scoredRows: ReadonlyArray<number>
}
const none: Work = {
  decodeRows: 0,
  items: 0,
  decodeKeys: [0, 0],
  rows: [0, 0],
  pairs: [0, 0],
  entryPairs: [0, 0],
  scoredRows: [0, 0],
}
const micros = (work: Partial<Work>): number => {
  const load = new StepLoad(2)
  const all = { ...none, ...work }
  load.decodeRows = all.decodeRows
  load.items = all.items
  for (const name of ["decodeKeys", "rows", "pairs", "entryPairs", "scoredRows"] as const) load[name].set(all[name])
  return model.stepMicros(load)
}

describe("a step's cost", () => {
  it("is what computing or reading takes, whichever is longer", () => {
    expect(micros({})).toBe(7)
    expect(micros({ items: 2 })).toBe(7 + 6)
    // 5,000 bytes take 100 µs; a row computes for 10 µs.
    expect(micros({ rows: [1, 0] })).toBe(7 + 100)
    expect(micros({ rows: [10, 0] })).toBe(7 + 100)
    expect(micros({ rows: [11, 0] })).toBe(7 + 110)
    // Pairs: 4 µs each, 2 µs at the entry; a scored row meets 4 queries: 2 µs.
    expect(micros({ rows: [1, 1], pairs: [5, 0], entryPairs: [0, 6], scoredRows: [3, 0] })).toBe(7 + 200 + 20 + 12 + 6)
    // Two decode rows read 200 µs of weights in each segment; a key takes 4 µs to read and 3 µs to attend to.
    expect(micros({ decodeRows: 2, decodeKeys: [10, 5] })).toBe(7 + 400 + 60)
    // They share the reading with prefill rows: 4 rows and 40, 80 µs and 400.
    expect(micros({ decodeRows: 4, rows: [40, 0] })).toBe(7 + 480 + 200)
  })

  const counts = fc.tuple(fc.nat(5000), fc.nat(5000))
  const works = fc.record({
    decodeRows: fc.nat(100),
    items: fc.nat(10),
    decodeKeys: counts,
    rows: counts,
    pairs: counts,
    entryPairs: counts,
    scoredRows: counts,
  })
  const plus = (a: ReadonlyArray<number>, b: ReadonlyArray<number>) => a.map((value, i) => value + b[i]!)
  const both = (a: Work, b: Work): Work => ({
    decodeRows: a.decodeRows + b.decodeRows,
    items: a.items + b.items,
    decodeKeys: plus(a.decodeKeys, b.decodeKeys),
    rows: plus(a.rows, b.rows),
    pairs: plus(a.pairs, b.pairs),
    entryPairs: plus(a.entryPairs, b.entryPairs),
    scoredRows: plus(a.scoredRows, b.scoredRows),
  })

  test.prop([works, works])("never falls with more work", (some, more) => {
    const together = micros(both(some, more))
    expect(Number.isSafeInteger(together)).toBe(true)
    expect(together).toBeGreaterThanOrEqual(micros(some))
    expect(together).toBeGreaterThanOrEqual(micros(more))
  })
})
