import { blockCount, bitmapWords, type SelectionShape } from "@uniprefill/model/Selection"

/** Which blocks a simulated selection keeps. */
export interface KeepModel {
  /**
   * A bitmap over the blocks of a set of `shape.rows` rows, after `segment`, for the request with this `key` and a prompt of
   * `promptTokens`. `isLowered`: at a lower p than the schedule's.
   */
  readonly select: (
    key: number,
    promptTokens: number,
    segment: number,
    shape: SelectionShape,
    isLowered?: boolean,
  ) => Uint32Array
}

/** Keeps each block with the probability given for its segment, drawn from (seed, key, segment, block) alone. */
export const randomKeep = (seed: number, keepPerSegment: ReadonlyArray<number>): KeepModel => ({
  select: (key, _promptTokens, segment, shape) => {
    const bitmap = new Uint32Array(bitmapWords(shape))
    const keep = keepPerSegment[Math.min(segment, keepPerSegment.length - 1)] ?? 1
    for (let block = 0; block < blockCount(shape); block++) {
      if (draw(seed, key, segment, block) < keep * 0x1_0000_0000) bitmap[block >>> 5]! |= 1 << (block & 31)
    }
    return bitmap
  },
})

/** A 32-bit hash of four integers. */
const draw = (a: number, b: number, c: number, d: number): number => {
  let hash = 0x9e3779b9
  for (const word of [a, b, c, d]) {
    hash = Math.imul(hash ^ word, 0x85ebca6b)
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
    hash ^= hash >>> 16
  }
  return hash >>> 0
}
