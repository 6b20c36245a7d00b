import type { RecordedSelections } from "./RecordedSelections.ts"

/**
 * How much of a prompt a simulated selection keeps: |S_i| / |S_0| after the i-th drop layer, by prompt length. Every report
 * names its source, because what a schedule keeps decides what dropping is worth.
 */
export interface KeepProfile {
  readonly source: "measured" | "recorded" | "assumed"
  /** Where the numbers come from, in a sentence. */
  readonly note: string
  /** What is known of the accuracy under the schedule. */
  readonly accuracy: string
  /** Ascending in `tokens`; between two lengths the shares are interpolated linearly, beyond the ends they are constant. */
  readonly points: ReadonlyArray<KeepPoint>
  /** Selections of a real run, which are drawn from in place of the shares; `points` are their means. */
  readonly recorded?: RecordedSelections | undefined
}

export interface KeepPoint {
  /** Prompt length. */
  readonly tokens: number
  /** Share kept after the first drop layer … the last one; in between along a line, so any number of drop layers fits. */
  readonly kept: ReadonlyArray<number>
}

/** The paper's mean shares for Llama-3.1-8B at 32K, 64K and 128K tokens; shorter prompts towards everything at 1K. */
export const paperKeep: KeepProfile = {
  source: "assumed",
  note: "mean shares of arXiv 2605.06221 for Llama-3.1-8B at 32K, 64K and 128K tokens; below 32K a line to everything kept at 1K",
  accuracy:
    "RULER average of the paper at these schedules: Llama-3.1-8B 90.36 dense, 90.45 dropping; Gemma-3-12B 79.99, 78.87; Qwen3-Next-80B-A3B 94.76, 93.94; unknown for other models and schedules",
  points: [
    { tokens: 1024, kept: [1, 1] },
    { tokens: 32_768, kept: [0.86, 0.8, 0.75, 0.69, 0.64, 0.58] },
    { tokens: 65_536, kept: [0.82, 0.74, 0.67, 0.59, 0.52, 0.45] },
    { tokens: 131_072, kept: [0.74, 0.64, 0.54, 0.44, 0.34, 0.24] },
  ],
}

/** The same shares at every length. */
export const constantKeep = (kept: ReadonlyArray<number>): KeepProfile => ({
  source: "assumed",
  note: `constant shares ${kept.join(", ")}`,
  accuracy: "unknown",
  points: [{ tokens: 1, kept }],
})

/** Share of the prompt kept after drop layer number `drop` (from 0) of `drops`. */
export const keptShare = (profile: KeepProfile, tokens: number, drop: number, drops: number): number => {
  const { points } = profile
  const after = points.findIndex((point) => point.tokens >= tokens)
  if (after === 0) return alongDrops(points[0]!, drop, drops)
  if (after < 0) return alongDrops(points[points.length - 1]!, drop, drops)
  const low = points[after - 1]!
  const high = points[after]!
  const weight = (tokens - low.tokens) / (high.tokens - low.tokens)
  return alongDrops(low, drop, drops) * (1 - weight) + alongDrops(high, drop, drops) * weight
}

const alongDrops = ({ kept }: KeepPoint, drop: number, drops: number): number => {
  if (kept.length === drops || drops === 1) return kept[Math.min(drop, kept.length - 1)]!
  const place = (drop * (kept.length - 1)) / (drops - 1)
  const below = Math.floor(place)
  const above = Math.min(below + 1, kept.length - 1)
  return kept[below]! + (kept[above]! - kept[below]!) * (place - below)
}
