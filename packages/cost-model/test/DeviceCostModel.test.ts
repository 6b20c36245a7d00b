import { fc, test } from "@fast-check/vitest"
import type { Calibration } from "@uniprefill/cost-model/Calibration"
import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import type { OperationWork } from "@uniprefill/cost-model/OperationWork"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { describe, expect, it } from "vitest"

/** Round numbers: costs below can be followed by hand. 100 FLOP and 50 bytes a µs; attention 10 FLOP a µs. */
const calibration: Calibration = {
  format: "uniprefill-calibration",
  version: 3,
  device: "test",
  source: "measured",
  note: "",
  gemm: [{ at: 1, teraFlops: 1e-4 }],
  attention: [{ at: 1, teraFlops: 1e-5 }],
  copyTeraBytes: 5e-5,
  stepMicros: 7,
  itemMicros: 3,
}
const segment: OperationWork = {
  rowFlops: 1000,
  rowWeightBytes: 5000,
  rowExpertBytes: 0,
  rowElementBytes: 0,
  pairFlops: 40,
  windowPairFlops: 20,
  entryPairFlops: 20,
  scorePairFlops: 5,
  recurrenceRowFlops: 0,
  decodeRowFlops: 2000,
  decodeWeightBytes: 10_000,
  decodeExpertBytes: 0,
  decodeKeyBytes: 200,
  decodePairFlops: 30,
  decodeWindowKeyBytes: 100,
  decodeWindowPairFlops: 5,
  decodeRecurrenceFlops: 0,
  decodeRowBytes: 0,
  experts: 0,
  topK: 0,
  layers: 2,
  rowReductions: 0,
  decodeReductions: 0,
  reductionRowBytes: 8,
}
const costsOf = (change: Partial<OperationWork> = {}, over: Partial<Calibration> = {}) => {
  const work = [
    { ...segment, ...change },
    { ...segment, ...change, scorePairFlops: 0 },
  ]
  return { calibration: { ...calibration, ...over }, link: null, work, lastQ: 4, maxRowsPerStep: 1000 }
}
const model = new DeviceCostModel(costsOf())

interface Work {
  readonly decodeRows: number
  readonly items: number
  readonly decodeKeys: ReadonlyArray<number>
  readonly decodeWindowKeys: ReadonlyArray<number>
  readonly rows: ReadonlyArray<number>
  readonly pairs: ReadonlyArray<number>
  readonly windowPairs: ReadonlyArray<number>
  readonly entryPairs: ReadonlyArray<number>
  readonly scoredRows: ReadonlyArray<number>
  readonly selections: ReadonlyArray<number>
}
const sums = [
  "decodeKeys",
  "decodeWindowKeys",
  "rows",
  "pairs",
  "windowPairs",
  "entryPairs",
  "scoredRows",
  "selections",
] as const
const loadOf = (work: Partial<Work>): StepLoad => {
  const load = new StepLoad(2)
  load.decodeRows = work.decodeRows ?? 0
  load.items = work.items ?? (work.rows === undefined && work.scoredRows === undefined ? 0 : 1)
  for (const name of sums) load[name].set(work[name] ?? [0, 0])
  return load
}
const micros = (work: Partial<Work>, of = model): number => of.stepMicros(loadOf(work))

describe("a step's cost", () => {
  it("is what computing or reading takes, whichever is longer", () => {
    // A step that only closes slots or moves memory launches nothing.
    expect(micros({})).toBe(0)
    expect(micros({ items: 2 })).toBe(7 + 6)
    // 5,000 bytes take 100 µs; a row computes for 10 µs.
    expect(micros({ rows: [1, 0] })).toBe(7 + 3 + 100)
    expect(micros({ rows: [10, 0] })).toBe(7 + 3 + 100)
    expect(micros({ rows: [11, 0] })).toBe(7 + 3 + 110)
    // Pairs: 4 µs each, 2 µs at the entry and within windows; a scored row meets 4 queries: 2 µs.
    expect(micros({ rows: [1, 1], pairs: [5, 0], windowPairs: [2, 0], entryPairs: [0, 6], scoredRows: [3, 0] })).toBe(
      7 + 3 + 200 + 20 + 4 + 12 + 6,
    )
    // Two decode rows read 200 µs of weights in each segment; a key takes 4 µs to read and 3 µs to attend to.
    expect(micros({ decodeRows: 2, decodeKeys: [10, 5] })).toBe(7 + 400 + 60)
    // Within windows a key takes 2 µs to read.
    expect(micros({ decodeRows: 2, decodeKeys: [10, 5], decodeWindowKeys: [4, 1] })).toBe(7 + 400 + 60 + 10)
    // They share the reading with prefill rows: 4 rows and 40, 80 µs and 400.
    expect(micros({ decodeRows: 4, rows: [40, 0] })).toBe(7 + 3 + 480 + 200)
  })

  it("has rates and times of their own for keys, scores, selections and decode rows where these were measured", () => {
    const over = {
      keyTeraBytes: 2.5e-5,
      decodeRowMicros: 5,
      mixedMicros: 12,
      mixedRowMicros: 6,
      selectionMicros: 40,
      readBackMicros: 15,
      scoreTeraFlops: 2e-6,
    }
    const own = new DeviceCostModel(costsOf({}, over))
    // A key takes 8 µs to read; each row 5 µs once, whatever the segments.
    expect(micros({ decodeRows: 2, decodeKeys: [10, 5] }, own)).toBe(7 + 400 + 120 + 10)
    // A scored row takes 10 µs, a selection 40, and 15 until the host has read those behind a segment.
    expect(micros({ rows: [1, 0], scoredRows: [3, 0], selections: [1, 0] }, own)).toBe(7 + 3 + 100 + 30 + 40 + 15)
    expect(micros({ rows: [1, 0], scoredRows: [3, 0], selections: [2, 0] }, own)).toBe(7 + 3 + 100 + 30 + 80 + 15)
    // The same segment was asked for with two selections before.
    expect(micros({ rows: [1, 0], scoredRows: [3, 0], selections: [3, 0] }, own)).toBe(7 + 3 + 100 + 30 + 120 + 15)
    // Beside prefill, too.
    expect(micros({ decodeRows: 2, rows: [40, 0] }, own)).toBe(7 + 3 + 440 + 200 + 10 + 12 + 12)
  })

  it("of rows that decode alone is what such steps were measured to take, and no less beside prefill", () => {
    const decode = [
      { at: 1, teraBytes: 5e-5 },
      { at: 3, teraBytes: 2.5e-5 },
    ]
    const own = new DeviceCostModel(costsOf({}, { decode }))
    // 10,000 bytes a segment: 200 µs for one row, 400 for three, 300 for two; a key 4 µs.
    expect([1, 2, 3].map((decodeRows) => micros({ decodeRows, decodeKeys: [10, 0] }, own))).toEqual([
      7 + 400 + 40,
      7 + 600 + 40,
      7 + 800 + 40,
    ])
    expect(own.outside(loadOf({ decodeRows: 3 }))).toEqual([])
    // More rows than measured take no less than computing them, 20 µs each.
    expect(own.outside(loadOf({ decodeRows: 4 })).join()).toMatch(/products of 4 rows, measured 1 to 3/)
    expect(micros({ decodeRows: 4 }, own)).toBe(7 + 800)
    expect(micros({ decodeRows: 30 }, own)).toBe(7 + 1200)
    // Ten prefill rows would compute for 100 µs; 40 and two decode rows do for 440.
    expect(micros({ decodeRows: 2, rows: [10, 0] }, own)).toBe(7 + 3 + 600)
    expect(micros({ decodeRows: 2, rows: [40, 0] }, own)).toBe(7 + 3 + 440 + 300)
    const names = own.terms(loadOf({ decodeRows: 2, rows: [10, 0] })).map(({ name }) => name)
    expect(names).toContain("segment 0: matrix products (reading weights)")
  })

  it("of a device that computes a key more slowly than it reads it is the computing", () => {
    const slow = new DeviceCostModel(costsOf({ decodePairFlops: 80 }))
    expect(micros({ decodeRows: 1, decodeKeys: [10, 0] }, slow)).toBe(7 + 400 + 80)
  })

  it("is no less than the launches of the layers that it passes", () => {
    const eager = new DeviceCostModel(costsOf({}, { layerMicros: 150 }))
    // 300 µs a segment; 400 of work hide them.
    expect(micros({ decodeRows: 1 }, eager)).toBe(7 + 600)
    expect(micros({ rows: [40, 0] }, eager)).toBe(7 + 3 + 400)
    expect(micros({ rows: [1, 0] }, eager)).toBe(7 + 3 + 300)
    const terms = eager.terms(loadOf({ rows: [1, 0] }))
    expect(terms).toContainEqual({ name: "segment 0: launches that its work does not hide", micros: 200 })
  })

  it("counts each all-reduce by the bytes of the rows in it", () => {
    const points = [
      { bytes: 80, micros: 10 },
      { bytes: 160, micros: 20 },
    ]
    const link = { library: "nccl", ranks: 2, source: "measured", points } as const
    const reducing = new DeviceCostModel({ ...costsOf({ rowReductions: 2, decodeReductions: 4 }), link })
    // A row is 8 bytes. Four of one row each in both segments.
    expect(micros({ decodeRows: 1 }, reducing)).toBe(7 + 400 + 8 * 10)
    // Two of 20 rows, 20 µs each; beyond the last point on its line.
    expect(micros({ rows: [20, 0] }, reducing)).toBe(7 + 3 + 200 + 2 * 20)
    expect(micros({ rows: [40, 0] }, reducing)).toBe(7 + 3 + 400 + 2 * 40)
    // Two shared, two of the decode row alone; and four in the other segment.
    expect(micros({ decodeRows: 1, rows: [14, 0] }, reducing)).toBe(7 + 3 + 200 + 200 + 2 * 15 + 2 * 10 + 4 * 10)
  })

  it("reads as many experts as rows are expected to pass", () => {
    const sparse = new DeviceCostModel(costsOf({ rowExpertBytes: 500, decodeExpertBytes: 500, experts: 4, topK: 1 }))
    // One row one expert, 10 µs; two rows 1.75 of them.
    expect(micros({ decodeRows: 1 }, sparse)).toBe(7 + 2 * 210)
    expect(micros({ decodeRows: 2 }, sparse)).toBe(7 + 2 * 217.5)
  })

  const counts = fc.tuple(fc.nat(5000), fc.nat(5000))
  const works = fc
    .tuple(fc.nat(100), fc.integer({ min: 1, max: 10 }), ...sums.map(() => counts))
    .map(
      ([decodeRows, items, ...values]) =>
        ({ decodeRows, items, ...Object.fromEntries(sums.map((name, i) => [name, values[i]])) }) as unknown as Work,
    )
  const both = (a: Work, b: Work): Work => ({
    ...(Object.fromEntries(sums.map((name) => [name, a[name].map((one, i) => one + b[name][i]!)])) as unknown as Work),
    decodeRows: a.decodeRows + b.decodeRows,
    items: a.items + b.items,
  })
  const sparse = { rowExpertBytes: 700, decodeExpertBytes: 700, experts: 16, topK: 2, rowElementBytes: 90 }
  const busy = new DeviceCostModel(
    costsOf(sparse, {
      layerMicros: 9,
      decodeRowMicros: 3,
      mixedMicros: 8,
      mixedRowMicros: 2,
      selectionMicros: 11,
      readBackMicros: 13,
      decode: [
        { at: 2, teraBytes: 4e-5 },
        { at: 20, teraBytes: 3e-5 },
        { at: 70, teraBytes: 1e-5 },
      ],
    }),
  )

  test.prop([works, works])("never falls with more work, and is the sum of its terms", (some, more) => {
    const together = micros(both(some, more), busy)
    expect(Number.isSafeInteger(together)).toBe(true)
    expect(together).toBeGreaterThanOrEqual(micros(some, busy))
    const parts = busy.terms(loadOf(some)).reduce((sum, term) => sum + term.micros, 0)
    expect(parts).toBeCloseTo(micros(some, busy), 6)
  })
})
