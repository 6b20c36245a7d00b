import { keptIndices } from "@uniprefill/model/Selection"
import type { SelectionShape } from "@uniprefill/model/Selection"

/** What each selection of a prompt kept, over the prompt itself. */
export interface KeptBlocks {
  /** Rows of a block of the prompt. */
  readonly block: number
  readonly promptTokens: number
  /** |S_i| for every set decided. */
  readonly rows: ReadonlyArray<number>
  /** For each selection, how many rows of each block of the prompt stay. */
  readonly kept: ReadonlyArray<Uint8Array>
}

/**
 * A bitmap is over the set before it, which has gaps of its own: the sets are followed back to the prompt's own rows. A block
 * of the prompt may stay in part, since the blocks of a later set lie across it.
 */
export const keptBlocks = (
  promptTokens: number,
  bitmaps: ReadonlyArray<Uint32Array>,
  { block, sink, lastQ }: Pick<SelectionShape, "block" | "sink" | "lastQ">,
): KeptBlocks => {
  const rows = [promptTokens]
  const kept: Array<Uint8Array> = []
  let positions = Int32Array.from({ length: promptTokens }, (_, row) => row)
  for (const bitmap of bitmaps) {
    const indices = keptIndices(bitmap, { rows: positions.length, block, sink, lastQ })
    const counts = new Uint8Array(Math.ceil(promptTokens / block))
    positions = indices.map((index) => positions[index]!)
    for (const position of positions) counts[Math.floor(position / block)]!++
    rows.push(positions.length)
    kept.push(counts)
  }
  return { block, promptTokens, rows, kept }
}
