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

/** |S_{i+1}| for a bitmap over S_i. */
export const keptRows = (bitmap: ArrayLike<number>, shape: SelectionShape): number => {
  let count = 0
  for (let first = 0; first < shape.rows; first += shape.block) {
    const end = Math.min(first + shape.block, shape.rows)
    const block = first / shape.block
    if ((bitmap[block >>> 5]! >>> (block & 31)) & 1) count += end - first
    else {
      const sinkEnd = Math.min(end, Math.max(first, shape.sink))
      const tailStart = Math.max(sinkEnd, Math.min(end, Math.max(first, shape.rows - shape.lastQ)))
      count += sinkEnd - first + (end - tailStart)
    }
  }
  return count
}

const isKept = (bitmap: ArrayLike<number>, shape: SelectionShape, row: number): boolean => {
  const block = Math.floor(row / shape.block)
  return row < shape.sink || row >= shape.rows - shape.lastQ || ((bitmap[block >>> 5]! >>> (block & 31)) & 1) === 1
}
