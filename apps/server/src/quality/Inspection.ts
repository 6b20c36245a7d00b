import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { Engine } from "@uniprefill/engine/Engine"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { keptPositions } from "../demo/DemoReport.ts"
import { ask } from "./Asking.ts"

/** What `uniprefill inspect` found in a prompt; with --json, as it is. */
export interface Inspection {
  readonly format: "uniprefill-inspection"
  readonly version: 1
  readonly model: string
  readonly device: string
  readonly promptTokens: number
  readonly answer: string
  readonly dense: string
  /** By drop layer. */
  readonly selections: ReadonlyArray<InspectedSelection>
  /** The prompt, piece by piece: all rows of a piece go on to the same layer. */
  readonly pieces: ReadonlyArray<Piece>
  /** Rows of a block. */
  readonly block: number
  /** Attention mass at the first selection, block by block. */
  readonly blocks: ReadonlyArray<InspectedBlock>
}

export interface InspectedSelection {
  readonly layer: number
  readonly p: number
  readonly rows: number
  /** What other p would keep here, the selections before it as they are. */
  readonly others: ReadonlyArray<{ readonly p: number; readonly rows: number }>
}

export interface Piece {
  readonly text: string
  readonly tokens: number
  /** Selections that keep it: 0 for none, the number of drop layers for what the last layers see. */
  readonly keptBy: number
}

/**
 * A block of 64 tokens in the order of mass: the blocks before it hold between `above[0]` and `above[1]` of the mass in question.
 * So it is kept at p of `above[1]`, and dropped at p below `above[0]`. Null for blocks that are always kept.
 */
export interface InspectedBlock {
  readonly first: number
  readonly above: readonly [low: number, high: number] | null
}

/** p that each selection is tried with. */
const triedP = [0, 0.25, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999]

/** Asks a prompt dense, with the schedule, and with other p at each selection in turn; all share the first layers. */
export const inspect = Effect.fnUntraced(function* (
  model: string,
  prompt: Int32Array,
  schedule: DropSchedule,
  maxTokens: number,
) {
  const engine = yield* Engine
  const tokenizer = yield* Tokenizer
  const own = schedule.dropLayers.map(({ p }) => p)
  const answer = (name: string, p: ReadonlyArray<number>, tokens: number) =>
    ask({ requestId: `inspect-${name}`, prompt, drop: true, p, maxTokens: tokens })
  const dropped = yield* answer("dropped", own, maxTokens)
  const dense = yield* answer(
    "dense",
    own.map(() => 1),
    maxTokens,
  )
  const sets = keptPositions(prompt.length, dropped.bitmaps, schedule)
  const tried = yield* Effect.forEach(own, (_, selection) =>
    Effect.forEach(
      triedP,
      Effect.fnUntraced(function* (p) {
        const all = own.map((before, i) => (i < selection ? before : i === selection ? p : 1))
        const { bitmaps } = yield* answer(`${selection}-${p}`, all, 1)
        return { p, positions: keptPositions(prompt.length, bitmaps, schedule)[selection + 1]! }
      }),
    ),
  )
  const keptBy = new Uint8Array(prompt.length)
  for (const positions of sets.slice(1)) for (const position of positions) keptBy[position]!++
  return {
    format: "uniprefill-inspection",
    version: 1,
    model,
    device: engine.model.executor.device,
    promptTokens: prompt.length,
    answer: dropped.text,
    dense: dense.text,
    selections: schedule.dropLayers.map(({ layer, p }, i) => ({
      layer,
      p,
      rows: sets[i + 1]!.length,
      others: tried[i]!.map((one) => ({ p: one.p, rows: one.positions.length })),
    })),
    pieces: piecesOf(prompt, keptBy, (tokens) => tokenizer.decode(tokens, { skipSpecialTokens: false })),
    block: schedule.block,
    blocks: blocksOf(prompt.length, tried[0]!, schedule),
  } satisfies Inspection
})

const piecesOf = (
  prompt: Int32Array,
  keptBy: Uint8Array,
  decode: (tokens: Int32Array) => string,
): ReadonlyArray<Piece> => {
  const pieces: Array<Piece> = []
  for (let from = 0; from < prompt.length;) {
    let to = from + 1
    while (to < prompt.length && keptBy[to] === keptBy[from]) to++
    pieces.push({ text: decode(prompt.subarray(from, to)), tokens: to - from, keptBy: keptBy[from]! })
    from = to
  }
  return pieces
}

/** The block stays at the first p that is tried and keeps it whole, and goes at the one before that. */
const blocksOf = (
  rows: number,
  tried: ReadonlyArray<{ readonly p: number; readonly positions: Int32Array }>,
  { block, sink, lastQ }: DropSchedule,
): ReadonlyArray<InspectedBlock> => {
  const kept = tried.map(({ p, positions }) => ({ p, set: new Set(positions) }))
  return Array.from({ length: Math.ceil(rows / block) }, (_, b) => {
    const first = b * block
    const end = Math.min(first + block, rows)
    if (end <= sink || first >= rows - lastQ) return { first, above: null }
    // A row that is not kept for its place.
    const row = Math.min(Math.max(first, sink), rows - lastQ - 1)
    const at = kept.findIndex(({ set }) => set.has(row))
    const low = at < 0 ? kept.at(-1)!.p : at === 0 ? 0 : kept[at - 1]!.p
    return { first, above: [low, at < 0 ? 1 : kept[at]!.p] as const }
  })
}
