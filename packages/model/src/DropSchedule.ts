/**
 * Where and how hard a model drops tokens: a property of the loaded model, data beside it. With no drop layers the model
 * is served dense.
 *
 * Source: arXiv 2605.06221, section 3; rule `exclusive` is this project's.
 */
export interface DropSchedule {
  /** Full-attention layers, ascending, the last layer excluded. */
  readonly dropLayers: ReadonlyArray<DropLayer>
  readonly rule: SelectionRule
  /** Rows of a block, the unit that is kept or dropped. */
  readonly block: number
  /** First rows that are always kept. */
  readonly sink: number
  /** Last prompt rows that are always kept and whose attention decides. */
  readonly lastQ: number
  /** Shorter prompts are served dense. */
  readonly minPromptTokens: number
  /** Whether a sliding window counts kept rows or original positions. */
  readonly windowBy: "kept" | "original"
}

export interface DropLayer {
  readonly layer: number
  /** Share of attention mass to keep, in [0, 1]. */
  readonly p: number
}

export type SelectionRule = "reference" | "exclusive"

export const denseSchedule: DropSchedule = {
  dropLayers: [],
  rule: "exclusive",
  block: 64,
  sink: 128,
  lastQ: 128,
  minPromptTokens: 1024,
  windowBy: "kept",
}

/** p as unsigned Q32 fixed point, round(p · 2³²); 1 is 2³². */
export const pToQ32 = (p: number): bigint => BigInt(Math.round(p * 0x1_0000_0000))
