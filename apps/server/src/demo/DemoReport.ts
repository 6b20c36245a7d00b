import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import { keptIndices } from "@uniprefill/model/Selection"
import type { DemoPrompt } from "./DemoPrompt.ts"

/** What one request of the demo did. */
export interface DemoAnswer {
  readonly text: string
  /** Arrival to first token. */
  readonly ttftMicros: number
  readonly bitmaps: ReadonlyArray<Uint32Array>
}

/** What `uniprefill demo` prints; with --json, as it is. */
export interface DemoReport {
  readonly model: string
  readonly device: string
  readonly promptTokens: number
  readonly needle: string
  /** First token of the needle. */
  readonly needleAt: number
  readonly question: string
  readonly expected: string
  readonly dense: DemoSide
  readonly uniprefill: DemoSide
  /** TTFT with UniPrefill over dense TTFT, medians. */
  readonly ttftRatio: number
  readonly segments: ReadonlyArray<DemoSegment>
  /** Per selection: of each 64-token block of the text, the share of rows that is still there, 0 to 1. */
  readonly keptBlocks: ReadonlyArray<ReadonlyArray<number>>
  /** Blocks that hold the needle: first and last. */
  readonly needleBlocks: readonly [first: number, last: number]
}

export interface DemoSide {
  readonly answer: string
  readonly correct: boolean
  readonly ttftMillis: number
  /** One per repetition. */
  readonly ttftsMillis: ReadonlyArray<number>
}

/** Layers that see the same rows. A drop layer belongs to the rows that enter it. */
export interface DemoSegment {
  readonly firstLayer: number
  readonly lastLayer: number
  readonly rows: number
}

/** Puts the numbers of a demo together. Requires: at least one answer on each side, the same prompt for all. */
export const makeDemoReport = (
  model: string,
  device: string,
  prompt: DemoPrompt,
  layout: KvLayout,
  schedule: DropSchedule,
  dense: ReadonlyArray<DemoAnswer>,
  uniprefill: ReadonlyArray<DemoAnswer>,
): DemoReport => {
  const sets = keptPositions(prompt.tokens.length, uniprefill[0]!.bitmaps, schedule)
  const sides = { dense: sideOf(dense, prompt.expected), uniprefill: sideOf(uniprefill, prompt.expected) }
  return {
    model,
    device,
    promptTokens: prompt.tokens.length,
    needle: prompt.needle,
    needleAt: prompt.needleStart,
    question: prompt.question,
    expected: prompt.expected,
    ...sides,
    ttftRatio: sides.uniprefill.ttftMillis / sides.dense.ttftMillis,
    segments: layout.segments.map(({ firstLayer, lastLayer }, i) => ({
      firstLayer,
      lastLayer,
      rows: (sets[i] ?? sets[sets.length - 1]!).length,
    })),
    keptBlocks: sets.slice(1).map((positions) => sharePerBlock(positions, prompt.tokens.length, schedule.block)),
    needleBlocks: [
      Math.floor(prompt.needleStart / schedule.block),
      Math.floor((prompt.needleEnd - 1) / schedule.block),
    ],
  }
}

/** Original positions of the rows of every kept set, the whole prompt first. */
export const keptPositions = (
  rows: number,
  bitmaps: ReadonlyArray<Uint32Array>,
  { block, sink, lastQ }: DropSchedule,
): ReadonlyArray<Int32Array> => {
  let positions = Int32Array.from({ length: rows }, (_, i) => i)
  const sets = [positions]
  for (const bitmap of bitmaps) {
    const before = positions
    positions = keptIndices(bitmap, { rows: before.length, block, sink, lastQ }).map((row) => before[row]!)
    sets.push(positions)
  }
  return sets
}

const sharePerBlock = (positions: Int32Array, rows: number, block: number): ReadonlyArray<number> => {
  const counts = new Array<number>(Math.ceil(rows / block)).fill(0)
  for (const position of positions) counts[Math.floor(position / block)]!++
  return counts.map((count, i) => count / Math.min(block, rows - i * block))
}

const sideOf = (answers: ReadonlyArray<DemoAnswer>, expected: string): DemoSide => {
  const answer = answers[0]!.text.trim()
  const ttftsMillis = answers.map(({ ttftMicros }) => ttftMicros / 1000)
  return { answer, correct: answer.startsWith(expected), ttftMillis: median(ttftsMillis), ttftsMillis }
}

const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
