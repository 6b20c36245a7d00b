import { ceilDiv } from "@uniprefill/units/Units"
import type { SelectionRule } from "./DropSchedule.ts"

/**
 * The selection rule in exact integers, and the kept set that a bitmap stands for.
 *
 * Masses are unsigned fixed point with 40 fractional bits, summed over queries and heads. The same rule runs in the
 * native selection; this one is its oracle and what executors in TypeScript use.
 */
export interface SelectionShape {
  /** Rows of the current kept set |S_i|, generated rows excluded. */
  readonly rows: number
  readonly block: number
  readonly sink: number
  readonly lastQ: number
}

export const blockCount = (shape: SelectionShape): number => ceilDiv(shape.rows, shape.block)

/** Words of 32 bits in the bitmap of a set of `rows` rows. */
export const bitmapWords = (shape: SelectionShape): number => ceilDiv(blockCount(shape), 32)

/** A block all of whose rows are always kept. */
const isForced = (shape: SelectionShape, block: number): boolean => {
  const first = block * shape.block
  const end = Math.min(first + shape.block, shape.rows)
  return end <= shape.sink || first >= shape.rows - shape.lastQ
}

/**
 * Chooses the blocks to keep. Bit b of the bitmap is block b; forced rows are kept besides (see {@link keptIndices}).
 *
 * - `reference`: blocks by (mass, index) descending; a block stays while the mass before it is ≤ p of the total;
 * - `exclusive`: wholly forced blocks leave the order and the total first, the rest by the same rule.
 *
 * Keeps everything when |S_i| ≤ sink + lastQ or when the total is 0. Wholly forced blocks are set in the bitmap under
 * `exclusive`, so that it shows what was kept.
 */
export const selectBlocks = (
  masses: ReadonlyArray<bigint>,
  pQ32: bigint,
  rule: SelectionRule,
  shape: SelectionShape,
): Uint32Array => {
  const blocks = blockCount(shape)
  const bitmap = new Uint32Array(bitmapWords(shape))
  const keep = (block: number) => (bitmap[block >>> 5]! |= 1 << (block & 31))
  const keepAll = () => {
    for (let block = 0; block < blocks; block++) keep(block)
    return bitmap
  }
  if (shape.rows <= shape.sink + shape.lastQ) return keepAll()

  const candidates: Array<number> = []
  let total = 0n
  for (let block = 0; block < blocks; block++) {
    if (rule === "exclusive" && isForced(shape, block)) {
      keep(block)
      continue
    }
    candidates.push(block)
    total += masses[block]!
  }
  if (total === 0n) return keepAll()
  candidates.sort((a, b) => Number(masses[b]! - masses[a]!) || b - a)
  const threshold = (total * pQ32) >> 32n
  let before = 0n
  for (const block of candidates) {
    if (before > threshold) break
    keep(block)
    before += masses[block]!
  }
  return bitmap
}

/** Rows of S_i that stay: those of set blocks, the first `sink` and the last `lastQ`; ascending indices into S_i. */
export const keptIndices = (bitmap: ArrayLike<number>, shape: SelectionShape): Int32Array => {
  const kept = new Int32Array(keptRows(bitmap, shape))
  let count = 0
  for (let row = 0; row < shape.rows; row++) if (isKept(bitmap, shape, row)) kept[count++] = row
  return kept
}

/** |S_{i+1}| for a bitmap over S_i. Counts whole words: a set of 128K rows has 64 of them. */
export const keptRows = (bitmap: ArrayLike<number>, shape: SelectionShape): number => {
  const { rows, block, sink, lastQ } = shape
  const blocks = blockCount(shape)
  let set = 0
  for (let word = 0; word * 32 < blocks; word++) {
    const beyond = Math.max(0, (word + 1) * 32 - blocks)
    set += bitCount(bitmap[word]! << beyond)
  }
  let count = set * block
  if (blocks > 0 && isSet(bitmap, blocks - 1)) count -= blocks * block - rows
  // Forced rows of blocks that are not set: those of the sink, then those of the tail that the sink does not reach.
  const sinkEnd = Math.min(sink, rows)
  const tailStart = Math.max(sinkEnd, rows - lastQ)
  for (let b = 0; b * block < sinkEnd; b++) if (!isSet(bitmap, b)) count += Math.min(block, sinkEnd - b * block)
  for (let b = Math.floor(tailStart / block); b * block < rows; b++) {
    if (!isSet(bitmap, b)) count += Math.min((b + 1) * block, rows) - Math.max(b * block, tailStart)
  }
  return count
}

const isSet = (bitmap: ArrayLike<number>, block: number): boolean => ((bitmap[block >>> 5]! >>> (block & 31)) & 1) === 1

const bitCount = (word: number): number => {
  const pairs = (word - ((word >>> 1) & 0x5555_5555)) | 0
  const fours = (pairs & 0x3333_3333) + ((pairs >>> 2) & 0x3333_3333)
  return Math.imul((fours + (fours >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24
}

const isKept = (bitmap: ArrayLike<number>, shape: SelectionShape, row: number): boolean => {
  const block = Math.floor(row / shape.block)
  return row < shape.sink || row >= shape.rows - shape.lastQ || isSet(bitmap, block)
}
