import type { KeptBlocks } from "@uniprefill/simulator/timetravel/KeptBlocks"
import { Pixels } from "./Pixels.ts"

/** Share of the rows that a selection kept in each of `width` equal parts of the prompt. */
export const keptShares = (
  { block, promptTokens, kept }: KeptBlocks,
  selection: number,
  width: number,
): Float32Array => {
  const counts = kept[selection]!
  const shares = new Float32Array(width)
  for (let x = 0; x < width; x++) {
    const from = (x / width) * promptTokens
    const to = ((x + 1) / width) * promptTokens
    let rows = 0
    let all = 0
    for (let b = Math.floor(from / block); b * block < to && b < counts.length; b++) {
      const size = Math.min(block, promptTokens - b * block)
      const overlap = Math.min(to, b * block + size) - Math.max(from, b * block)
      all += overlap
      rows += (overlap * counts[b]!) / size
    }
    shares[x] = all === 0 ? 0 : rows / all
  }
  return shares
}

/** A line for each set, from the whole prompt on: full colour where all rows are kept, none where none are. */
export const paintStrip = (
  kept: KeptBlocks,
  width: number,
  lineHeight: number,
  gap: number,
  colours: ReadonlyArray<string>,
  ground: string,
): Pixels => {
  const lines = kept.kept.length + 1
  const pixels = new Pixels(width, lines * lineHeight + (lines - 1) * gap)
  for (let line = 0; line < lines; line++) {
    const top = line * (lineHeight + gap)
    const shares = line === 0 ? null : keptShares(kept, line - 1, width)
    for (let x = 0; x < width; x++) {
      pixels.column(
        x,
        top,
        top + lineHeight,
        mixed(ground, colours[line] ?? colours.at(-1)!, shares === null ? 1 : shares[x]!),
      )
    }
  }
  return pixels
}

/** A pixel a share of the way from one colour to another. */
const mixed = (from: string, to: string, share: number): number => {
  const [a, b] = [from, to].map((colour) => Number.parseInt(colour.slice(1), 16)) as [number, number]
  const channel = (shift: number) => Math.round(((a >> shift) & 255) * (1 - share) + ((b >> shift) & 255) * share)
  return ((255 << 24) | (channel(0) << 16) | (channel(8) << 8) | channel(16)) >>> 0
}
