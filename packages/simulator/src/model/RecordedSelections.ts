import { bitmapWords, blockCount, keptRows, type SelectionShape } from "@uniprefill/model/Selection"
import type { KeepPoint } from "./KeepProfile.ts"

/** The selections of one prompt of a real run, drop layer after drop layer. */
export interface RecordedPrompt {
  readonly promptTokens: number
  /** One bitmap for each drop layer, over the blocks of the set before it. */
  readonly bitmaps: ReadonlyArray<Uint32Array>
}

/** Blocks and forced rows of the schedule that selections were made with. */
export type SelectionRows = Pick<SelectionShape, "block" | "sink" | "lastQ">

/** A recorded prompt, the rows of each set before a selection, and of the last one. */
interface RecordedChain extends RecordedPrompt {
  readonly rows: ReadonlyArray<number>
}

/** Recorded prompts up to this much shorter or longer stand for a prompt alike. */
const alike = 2

/**
 * Selections of a real run, given to prompts of about the same length, or of the nearest one.
 *
 * A prompt of the recorded length gets the recorded bitmaps. For another length each bitmap is scaled by block position:
 * block b of B takes what was recorded at the same share of the way through, among the blocks that are not wholly forced, so
 * that what is forced anyway does not count as chosen. Bitmaps are over the set before, so the sets stay nested.
 */
export class RecordedSelections {
  readonly shape: SelectionRows
  /** Ascending in length. */
  private readonly chains: ReadonlyArray<RecordedChain>

  /** Requires at least one prompt, and as many bitmaps in each. */
  constructor(shape: SelectionRows, prompts: ReadonlyArray<RecordedPrompt>) {
    const { block, sink, lastQ } = shape
    this.shape = { block, sink, lastQ }
    this.chains = prompts
      .map((prompt) => {
        const rows = [prompt.promptTokens]
        for (const bitmap of prompt.bitmaps) rows.push(keptRows(bitmap, { rows: rows.at(-1)!, block, sink, lastQ }))
        return { ...prompt, rows }
      })
      .sort((a, b) => a.promptTokens - b.promptTokens)
  }

  get prompts(): number {
    return this.chains.length
  }

  get shortest(): number {
    return this.chains[0]!.promptTokens
  }

  get longest(): number {
    return this.chains.at(-1)!.promptTokens
  }

  /** Drop layers of the recorded schedule. */
  get drops(): number {
    return this.chains[0]!.bitmaps.length
  }

  /** Mean shares kept, by recorded length. */
  get points(): ReadonlyArray<KeepPoint> {
    const byLength = new Map<number, Array<RecordedChain>>()
    for (const chain of this.chains) {
      byLength.set(chain.promptTokens, [...(byLength.get(chain.promptTokens) ?? []), chain])
    }
    return [...byLength].map(([tokens, chains]) => ({
      tokens,
      kept: chains[0]!.bitmaps.map(
        (_, drop) => chains.reduce((sum, chain) => sum + chain.rows[drop + 1]! / tokens, 0) / chains.length,
      ),
    }))
  }

  /** The bitmap after `segment` for a prompt of `promptTokens`; `random`, 32 bits, chooses the recorded prompt. */
  select(random: number, promptTokens: number, segment: number, shape: SelectionShape): Uint32Array {
    const { rows, bitmaps } = this.chains[this.choose(random, promptTokens)]!
    const recorded = { rows: rows[segment]!, ...this.shape }
    return scaledBitmap(bitmaps[segment]!, recorded, shape)
  }

  private choose(random: number, promptTokens: number): number {
    const { chains } = this
    const from = firstAtLeast(chains, promptTokens / alike)
    const to = firstAtLeast(chains, promptTokens * alike + 1)
    if (to > from) return from + ((random >>> 0) % (to - from))
    return Math.min(from, chains.length - 1)
  }
}

const firstAtLeast = (chains: ReadonlyArray<RecordedChain>, tokens: number): number => {
  let low = 0
  let high = chains.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (chains[middle]!.promptTokens < tokens) low = middle + 1
    else high = middle
  }
  return low
}

/** A bitmap for `shape` that keeps, among the blocks that are not wholly forced, those at the places that `bitmap` keeps. */
export const scaledBitmap = (bitmap: Uint32Array, recorded: SelectionShape, shape: SelectionShape): Uint32Array => {
  const scaled = new Uint32Array(bitmapWords(shape))
  const [from, end] = openBlocks(shape)
  const [recordedFrom, recordedEnd] = openBlocks(recorded)
  const blocks = blockCount(shape)
  for (let block = 0; block < blocks; block++) {
    const isOpen = block >= from && block < end && recordedEnd > recordedFrom
    // Rounded down, in whole numbers: of equal lengths every block is its own.
    const source =
      recordedFrom + Math.floor(((2 * (block - from) + 1) * (recordedEnd - recordedFrom)) / (2 * (end - from)))
    if (!isOpen || ((bitmap[source >>> 5]! >>> (source & 31)) & 1) === 1) scaled[block >>> 5]! |= 1 << (block & 31)
  }
  return scaled
}

/** The blocks that are not wholly forced: from the first up to, not including, the second. */
const openBlocks = ({ rows, block, sink, lastQ }: SelectionShape): readonly [number, number] => {
  if (rows <= sink + lastQ) return [0, 0]
  return [Math.floor(sink / block), Math.ceil((rows - lastQ) / block)]
}
