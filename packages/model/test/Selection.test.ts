import { pToQ32, type SelectionRule } from "@uniprefill/model/DropSchedule"
import {
  bitmapWords,
  blockCount,
  keptIndices,
  keptRows,
  selectBlocks,
  type SelectionShape,
} from "@uniprefill/model/Selection"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const shapes: fc.Arbitrary<SelectionShape> = fc.record({
  rows: fc.integer({ min: 1, max: 3000 }),
  block: fc.constantFrom(32, 64, 128),
  sink: fc.constantFrom(0, 1, 100, 128, 200),
  lastQ: fc.constantFrom(1, 32, 128, 200),
})

/** A shape, masses with ties and zeros, a share and a rule. */
const cases = shapes.chain((shape) =>
  fc.record({
    shape: fc.constant(shape),
    masses: fc.array(fc.oneof(fc.constantFrom(0n, 1n, 5n), fc.bigInt({ min: 0n, max: 1n << 56n })), {
      minLength: blockCount(shape),
      maxLength: blockCount(shape),
    }),
    p: fc.oneof(fc.constantFrom(0, 1), fc.double({ min: 0, max: 1, noNaN: true })),
    rule: fc.constantFrom<SelectionRule>("exclusive", "reference"),
  }),
)

const bits = (bitmap: Uint32Array, shape: SelectionShape): Array<number> =>
  Array.from({ length: blockCount(shape) }, (_, block) => block).filter((b) => (bitmap[b >> 5]! >>> (b & 31)) & 1)

/** Rows of a block that the first `sink` and the last `lastQ` rows leave to the selection. */
const openRows = (shape: SelectionShape, block: number): number => {
  let open = 0
  for (let row = block * shape.block; row < Math.min(shape.rows, (block + 1) * shape.block); row++) {
    if (row >= shape.sink && row < shape.rows - shape.lastQ) open++
  }
  return open
}

/** The rule as a statement about each block: those ranked before it do not yet exceed p of the total. */
const naiveSelection = ({
  shape,
  masses,
  p,
  rule,
}: {
  shape: SelectionShape
  masses: Array<bigint>
  p: number
  rule: SelectionRule
}) => {
  const all = masses.map((_, block) => block)
  if (shape.rows <= shape.sink + shape.lastQ) return all
  const sorted = rule === "reference" ? all : all.filter((block) => openRows(shape, block) > 0)
  const forced = all.filter((block) => !sorted.includes(block))
  const total = sorted.reduce((sum, block) => sum + masses[block]!, 0n)
  if (total === 0n) return all
  const precedes = (a: number, b: number) => {
    const lead = masses[a]! - masses[b]!
    return lead > 0n || (lead === 0n && a > b)
  }
  const stays = (block: number) => {
    const before = sorted.filter((other) => precedes(other, block)).reduce((sum, other) => sum + masses[other]!, 0n)
    return before <= (total * pToQ32(p)) / (1n << 32n)
  }
  return [...forced, ...sorted.filter(stays)].sort((a, b) => a - b)
}

describe("selectBlocks", () => {
  it("keeps what the rule says, for any masses, shape and share", () => {
    fc.assert(
      fc.property(cases, (one) => {
        const bitmap = selectBlocks(one.masses, pToQ32(one.p), one.rule, one.shape)
        expect(bitmap).toHaveLength(bitmapWords(one.shape))
        expect(bits(bitmap, one.shape)).toEqual(naiveSelection(one))
      }),
      { numRuns: 1000 },
    )
  })

  it("keeps every block at p = 1 exclusive", () => {
    fc.assert(
      fc.property(cases, ({ shape, masses }) => {
        expect(keptRows(selectBlocks(masses, pToQ32(1), "exclusive", shape), shape)).toBe(shape.rows)
      }),
    )
  })

  const shape: SelectionShape = { rows: 64 * 6, block: 64, sink: 64, lastQ: 64 }
  it("keeps one block of equals at p = 0: the latest", () => {
    expect(bits(selectBlocks([9n, 5n, 5n, 5n, 1n, 9n], 0n, "exclusive", shape), shape)).toEqual([0, 3, 5])
    expect(bits(selectBlocks([9n, 5n, 5n, 5n, 1n, 9n], 0n, "reference", shape), shape)).toEqual([5])
  })

  it("counts forced blocks in the share only under the reference rule", () => {
    const masses = [900n, 40n, 30n, 20n, 10n, 0n]
    expect(bits(selectBlocks(masses, pToQ32(0.8), "reference", shape), shape)).toEqual([0])
    expect(bits(selectBlocks(masses, pToQ32(0.8), "exclusive", shape), shape)).toEqual([0, 1, 2, 3, 5])
  })

  it("keeps all when nothing outside the forced rows has mass", () => {
    const zero = [7n, 0n, 0n, 0n, 0n, 7n]
    expect(keptRows(selectBlocks(zero, pToQ32(0.5), "exclusive", shape), shape)).toBe(shape.rows)
    expect(
      keptRows(
        selectBlocks(
          zero.map(() => 0n),
          pToQ32(0.5),
          "reference",
          shape,
        ),
        shape,
      ),
    ).toBe(shape.rows)
  })

  it("keeps all of a set that the forced rows cover", () => {
    const short = { rows: 128, block: 64, sink: 64, lastQ: 64 }
    expect(keptRows(selectBlocks([1n, 0n], 0n, "reference", short), short)).toBe(128)
    expect(
      keptRows(selectBlocks([1n, 0n, 0n], 0n, "reference", { ...short, rows: 129 }), { ...short, rows: 129 }),
    ).toBe(128)
  })

  it("counts p in Q32 without rounding up: a share just below the mass before a block leaves it out", () => {
    const masses = [0n, 1n << 55n, 1n << 55n, 0n, 0n, 0n]
    const half = pToQ32(0.5)
    expect(bits(selectBlocks(masses, half, "exclusive", shape), shape)).toEqual([0, 1, 2, 5])
    expect(bits(selectBlocks(masses, half - 1n, "exclusive", shape), shape)).toEqual([0, 2, 5])
  })
})

describe("keptIndices", () => {
  it("are the rows of set blocks and the forced rows, ascending, as many as keptRows says", () => {
    fc.assert(
      fc.property(cases, fc.array(fc.boolean(), { minLength: 100, maxLength: 100 }), ({ shape }, set) => {
        const bitmap = new Uint32Array(bitmapWords(shape))
        const isSet = (block: number) => set[block % 100]!
        for (let block = 0; block < blockCount(shape); block++)
          if (isSet(block)) bitmap[block >> 5]! |= 1 << (block & 31)
        const expected = Array.from({ length: shape.rows }, (_, row) => row).filter(
          (row) => row < shape.sink || row >= shape.rows - shape.lastQ || isSet(Math.floor(row / shape.block)),
        )
        expect(Array.from(keptIndices(bitmap, shape))).toEqual(expected)
        expect(keptRows(bitmap, shape)).toBe(expected.length)
      }),
    )
  })

  it("count a partial last block's own rows", () => {
    const shape = { rows: 200, block: 64, sink: 0, lastQ: 1 }
    expect(keptRows(Uint32Array.of(0b1000), shape)).toBe(8)
    expect(keptRows(Uint32Array.of(0), shape)).toBe(1)
  })
})

it("p becomes Q32 by rounding", () => {
  expect([0, 0.5, 1].map(pToQ32)).toEqual([0n, 1n << 31n, 1n << 32n])
  expect(pToQ32(0.9)).toBe(3865470566n)
})
