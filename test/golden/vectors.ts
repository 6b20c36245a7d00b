import { bitmapWords, keptIndices, selectBlocks, type SelectionShape } from "@uniprefill/model/Selection"
import type { SelectionRule } from "@uniprefill/model/DropSchedule"

/**
 * Test vectors of the method for other engines: native/vectors/*.json, made by makeVectors.ts from plain loops over doubles.
 * native/vectors/README.md says how a reader fills the inputs; the same words in code are `drawn` and `keysOf`.
 */

/** Element `index` of the tensor with that seed, in [−2, 2) in steps of 1/64: exact in bf16 and f16. */
export const drawn = (seed: number, index: number): number => {
  let h = (Math.imul(seed, 0x9e37_79b9) + index) >>> 0
  h = Math.imul(h ^ (h >>> 16), 0x85eb_ca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2_ae35)
  return (((h ^ (h >>> 16)) >>> 24) - 128) / 64
}

const tensor = (seed: number, length: number): Float64Array =>
  Float64Array.from({ length }, (_, index) => drawn(seed, index))

interface Heads {
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly scale: number
  readonly softCap: number
}

const score = (
  { headDim, scale, softCap }: Heads,
  queries: Float64Array,
  q: number,
  keys: Float64Array,
  k: number,
): number => {
  let dot = 0
  for (let i = 0; i < headDim; i++) dot += queries[q + i]! * keys[k + i]!
  return softCap === 0 ? dot * scale : softCap * Math.tanh((dot * scale) / softCap)
}

/** Shares of the keys lo … hi of one query and head. */
const shares = (
  shape: Heads,
  queries: Float64Array,
  row: number,
  head: number,
  keys: Float64Array,
  lo: number,
  hi: number,
): Float64Array => {
  const { heads, kvHeads, headDim } = shape
  const kvHead = Math.floor((head * kvHeads) / heads)
  const scores = Float64Array.from({ length: hi - lo + 1 }, (_, i) =>
    score(shape, queries, (row * heads + head) * headDim, keys, ((lo + i) * kvHeads + kvHead) * headDim),
  )
  const most = scores.reduce((a, b) => Math.max(a, b), -Infinity)
  const powers = scores.map((each) => Math.exp(each - most))
  const sum = powers.reduce((a, b) => a + b, 0)
  return powers.map((each) => each / sum)
}

// ---------------------------------------------------------------------------------------------------------- rule ------

interface RuleCase extends SelectionShape {
  readonly name: string
  readonly rule: SelectionRule
  readonly p: number
  readonly masses: ReadonlyArray<bigint>
}

const one = 1n << 40n
const thousand = { rows: 1000, block: 64, sink: 128, lastQ: 128 }
const falling = Array.from({ length: 16 }, (_, b) => (one * 100n) / BigInt(b + 1))

const ruleCases: ReadonlyArray<RuleCase> = [
  { ...thousand, name: "falling masses", rule: "exclusive", p: 0.9, masses: falling },
  { ...thousand, name: "falling masses, all blocks in question", rule: "reference", p: 0.9, masses: falling },
  { ...thousand, name: "equal masses: the later blocks stay", rule: "exclusive", p: 0.5, masses: falling.map(() => one) },
  { ...thousand, name: "p 0 keeps the first of the order", rule: "exclusive", p: 0, masses: falling },
  { ...thousand, name: "p 1 keeps every block with mass", rule: "exclusive", p: 1, masses: falling },
  { ...thousand, name: "no mass in question: all stay", rule: "exclusive", p: 0.5, masses: falling.map(() => 0n) },
  { ...thousand, rows: 256, name: "every row is forced", rule: "exclusive", p: 0, masses: falling.slice(0, 4) },
  {
    ...thousand,
    name: "total · p needs more than 64 bits",
    rule: "exclusive",
    p: 0.99,
    masses: falling.map((mass) => mass << 9n),
  },
]

const pQ32 = (p: number): bigint => BigInt(Math.round(p * 2 ** 32))

const ruleVector = ({ name, rule, p, masses, ...shape }: RuleCase) => ({
  name,
  ...shape,
  rule,
  pQ32: String(pQ32(p)),
  masses: masses.map(String),
  bitmap: [...selectBlocks(masses, pQ32(p), rule, shape)],
})

// ----------------------------------------------------------------------------------------------------- selection ------

interface SelectCase extends SelectionShape, Heads {
  readonly name: string
  readonly seed: number
  readonly rule: SelectionRule
  readonly p: number
  /** Rows from … to − 1, the keys of which are what queries look for: row r's what query r mod lastQ does. */
  readonly found: ReadonlyArray<readonly [from: number, to: number]>
  /** An element of the queries that is NaN; −1: none. */
  readonly nan: number
}

const usual: SelectCase = {
  name: "",
  seed: 1,
  rows: 700,
  block: 64,
  sink: 128,
  lastQ: 128,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  scale: 0.125,
  softCap: 0,
  rule: "exclusive",
  p: 0.5,
  found: [
    [200, 250],
    [400, 410],
  ],
  nan: -1,
}

const selectCases: ReadonlyArray<SelectCase> = [
  { ...usual, name: "two places looked for" },
  { ...usual, name: "the same by the other rule", rule: "reference" },
  { ...usual, name: "p is 0", p: 0 },
  { ...usual, name: "p is 1", p: 1 },
  { ...usual, seed: 11, name: "short last block, odd sink and lastQ", rows: 517, sink: 70, lastQ: 100, found: [[130, 180]] },
  { ...usual, seed: 21, name: "fewer rows than lastQ", rows: 90, found: [] },
  { ...usual, seed: 31, name: "every row is forced", rows: 256, p: 0, found: [] },
  { ...usual, seed: 41, name: "capped scores", softCap: 5, p: 0.7 },
  { ...usual, seed: 51, name: "heads of 128, one KV head", kvHeads: 1, headDim: 128, scale: 0.0625 },
  { ...usual, name: "a query that is not a number keeps everything", p: 0, nan: 5 },
]

/** [rows × kvHeads × headDim] */
const keysOf = (shape: SelectCase, queries: Float64Array): Float64Array => {
  const { seed, rows, lastQ, heads, kvHeads, headDim, found } = shape
  const keys = tensor(seed + 1, rows * kvHeads * headDim)
  for (const [from, to] of found) {
    for (let row = from; row < to; row++) {
      for (let kvHead = 0; kvHead < kvHeads; kvHead++) {
        const at = ((row % lastQ) * heads + (kvHead * heads) / kvHeads) * headDim
        keys.set(queries.subarray(at, at + headDim), (row * kvHeads + kvHead) * headDim)
      }
    }
  }
  return keys
}

/** Unsigned, 40 fractional bits: a head's mass is rounded once, heads add as integers. */
const massesOf = (shape: SelectCase, queries: Float64Array): ReadonlyArray<bigint> => {
  const { rows, block, lastQ, heads } = shape
  const keys = keysOf(shape, queries)
  const masses = Array.from({ length: Math.ceil(rows / block) }, () => 0n)
  const queryRows = Math.min(lastQ, rows)
  for (let head = 0; head < heads; head++) {
    const sums = new Float64Array(masses.length)
    for (let q = 0; q < queryRows; q++) {
      const seen = shares(shape, queries, q, head, keys, 0, rows - queryRows + q)
      seen.forEach((share, row) => (sums[Math.floor(row / block)]! += share))
    }
    sums.forEach((sum, b) => (masses[b]! += BigInt(Math.round(sum * 2 ** 40))))
  }
  return masses
}

/** How far the cut is from falling elsewhere, as a share of the total: a port that is off by less keeps the same blocks. */
const marginOf = ({ p, rule, ...shape }: SelectCase, masses: ReadonlyArray<bigint>): number => {
  const total = masses.reduce((a, b) => a + b, 0n)
  const expected = String(selectBlocks(masses, pQ32(p), rule, shape))
  const kept = (by: number) => String(selectBlocks(masses, pQ32(Math.min(1, Math.max(0, p + by))), rule, shape))
  let margin = total === 0n ? 1 : 2 ** -20
  while (margin < 1 && kept(margin) === expected && kept(-margin) === expected) margin *= 2
  return margin
}

/** A cut nearer than this would be a test of the port's rounding. */
export const leastMargin = 1e-3

const selectVector = (shape: SelectCase) => {
  const { name, p, found, nan, scale, softCap, ...numbers } = shape
  const queries = tensor(shape.seed, shape.lastQ * shape.heads * shape.headDim)
  if (nan >= 0) queries[nan] = NaN
  const masses = nan >= 0 ? Array.from({ length: Math.ceil(shape.rows / shape.block) }, () => 0n) : massesOf(shape, queries)
  if (marginOf(shape, masses) < leastMargin) throw new RangeError(`${name}: the cut is too near to another`)
  const bitmap = selectBlocks(masses, pQ32(p), shape.rule, shape)
  if (bitmap.length !== bitmapWords(shape)) throw new RangeError(`${name}: ${bitmap.length} words`)
  return {
    name,
    ...numbers,
    scale,
    softCap,
    pQ32: String(pQ32(p)),
    found,
    nan,
    masses: masses.map(String),
    bitmap: [...bitmap],
    kept: ranges(keptIndices(bitmap, shape)),
    fallback: nan >= 0 ? 1 : 0,
  }
}

/** Ascending indices as [first, end) pairs. */
const ranges = (indices: Int32Array): ReadonlyArray<readonly [number, number]> => {
  const out: Array<[number, number]> = []
  for (const index of indices) {
    const last = out.at(-1)
    if (last?.[1] === index) last[1]++
    else out.push([index, index + 1])
  }
  return out
}

// ----------------------------------------------------------------------------------------------------- attention ------

interface AttentionCase extends Heads {
  readonly name: string
  readonly seed: number
  readonly keyRows: number
  readonly lo: ReadonlyArray<number>
  readonly hi: ReadonlyArray<number>
}

const attentionCases: ReadonlyArray<AttentionCase> = [
  { ...usual, name: "the last rows of a prompt", heads: 2, kvHeads: 1, keyRows: 300, lo: [0, 0, 0], hi: [297, 298, 299] },
  {
    ...usual,
    seed: 61,
    name: "kept rows over the keys before the selection",
    heads: 2,
    kvHeads: 2,
    keyRows: 200,
    lo: [0, 0, 0, 0],
    hi: [0, 63, 130, 199],
  },
  {
    ...usual,
    seed: 71,
    name: "a sliding window of 64 keys, scores capped",
    heads: 2,
    kvHeads: 1,
    softCap: 5,
    keyRows: 160,
    lo: [0, 1, 96],
    hi: [63, 64, 159],
  },
  { ...usual, seed: 81, name: "a row that sees nothing", heads: 2, kvHeads: 1, keyRows: 64, lo: [0, 21], hi: [20, 20] },
  {
    ...usual,
    seed: 91,
    name: "heads of 128",
    heads: 2,
    kvHeads: 1,
    headDim: 128,
    scale: 0.0625,
    keyRows: 129,
    lo: [0],
    hi: [128],
  },
]

/** What the header of the operators demands of lo and hi. */
const isMonotone = (numbers: ReadonlyArray<number>) => numbers.every((x, i) => i === 0 || x >= numbers[i - 1]!)

/** Seven digits: more than an operator in bf16 or f32 can tell. */
const digits = (x: number): number => Number(x.toPrecision(7))

const attentionVector = ({ name, seed, keyRows, heads, kvHeads, headDim, scale, softCap, lo, hi }: AttentionCase) => {
  if (!isMonotone(lo) || !isMonotone(hi)) throw new RangeError(`${name}: lo and hi must not fall`)
  const shape = { heads, kvHeads, headDim, scale, softCap }
  const queries = tensor(seed, lo.length * heads * headDim)
  const keys = tensor(seed + 1, keyRows * kvHeads * headDim)
  const values = tensor(seed + 2, keyRows * kvHeads * headDim)
  const output: Array<number> = []
  lo.forEach((first, row) => {
    for (let head = 0; head < heads; head++) {
      const sums = new Float64Array(headDim)
      const kvHead = Math.floor((head * kvHeads) / heads)
      shares(shape, queries, row, head, keys, first, hi[row]!).forEach((share, i) => {
        const at = ((first + i) * kvHeads + kvHead) * headDim
        for (let d = 0; d < headDim; d++) sums[d]! += share * values[at + d]!
      })
      output.push(...sums)
    }
  })
  return { name, seed, queryRows: lo.length, keyRows, ...shape, lo, hi, output: output.map(digits) }
}

/** One case a line. */
const render = (of: string, sections: Readonly<Record<string, ReadonlyArray<object>>>): string => {
  const texts = Object.entries(sections).map(
    ([name, cases]) => `"${name}":[\n${cases.map((each) => JSON.stringify(each)).join(",\n")}\n]`,
  )
  return `{"format":"uniprefill-vectors","version":1,"of":"${of}",\n${texts.join(",\n")}}\n`
}

/** The files below native/vectors, by name. */
export const vectorFiles = (): Readonly<Record<string, string>> => ({
  "selection.json": render("selection", { rule: ruleCases.map(ruleVector), select: selectCases.map(selectVector) }),
  "attention.json": render("attention", { attention: attentionCases.map(attentionVector) }),
})
