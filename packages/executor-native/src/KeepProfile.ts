import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { bitmapWords, blockCount, keptRows, type SelectionShape } from "@uniprefill/model/Selection"

/**
 * What share of a prompt's rows each segment after the first keeps, for models without meaning: random weights attend to
 * everything alike, so what they would keep says nothing. Selections are computed all the same, and their outcome replaced.
 */
export interface KeepProfile {
  /** |S_i| / |S_0| of segments 1, 2, …, each at most the one before. */
  readonly shares: ReadonlyArray<number>
  readonly seed: number
}

/**
 * Bitmaps of random blocks that come to the profile's shares; sink and last queries are kept besides. Fails with RangeError
 * when the shares are not one for each drop layer.
 */
export const keepBitmaps = (
  { shares, seed }: KeepProfile,
  promptLength: number,
  { dropLayers, block, sink, lastQ }: DropSchedule,
): ReadonlyArray<Uint32Array> => {
  if (shares.length !== dropLayers.length) {
    throw new RangeError(`${shares.length} shares of a keep profile for ${dropLayers.length} drop layers`)
  }
  const random = generator(seed)
  const bitmaps: Array<Uint32Array> = []
  let rows = promptLength
  for (const share of shares) {
    const shape: SelectionShape = { rows, block, sink, lastQ }
    const blocks = blockCount(shape)
    const bitmap = new Uint32Array(bitmapWords(shape))
    const order = Array.from({ length: blocks }, (_, i) => i)
    for (let i = blocks - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1))
      ;[order[i], order[j]] = [order[j]!, order[i]!]
    }
    // Forced rows count too, so blocks are added until the share is reached.
    const wanted = Math.min(rows, Math.round(share * promptLength))
    let kept = keptRows(bitmap, shape)
    for (let i = 0; i < blocks && kept < wanted; i++) {
      const chosen = order[i]!
      bitmap[chosen >>> 5]! |= 1 << (chosen & 31)
      kept += rowsGained(chosen, shape)
    }
    bitmaps.push(bitmap)
    rows = keptRows(bitmap, shape)
  }
  return bitmaps
}

/** Rows of a block that are not kept without it. */
const rowsGained = (index: number, { rows, block, sink, lastQ }: SelectionShape): number => {
  const first = Math.max(index * block, sink)
  const end = Math.min((index + 1) * block, rows - lastQ)
  return Math.max(0, end - first)
}

/** Mulberry32. */
const generator = (seed: number) => {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296
  }
}
