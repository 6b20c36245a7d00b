import { Engine } from "@uniprefill/engine/Engine"
import { Effect } from "effect"
import type { Case } from "./AccuracyRun.ts"
import { ask } from "./Asking.ts"
import { mean } from "./Statistics.ts"

/** Rows kept after each drop layer, a share of the prompt, with one p at all of them. */
export interface KeptPoint {
  readonly tokens: number
  readonly p: number
  readonly kept: ReadonlyArray<number>
}

/**
 * What an engine's drop layers keep of some prompts, by length and p: ascending by both, as a `*.keep.json` has it. All p of a prompt
 * share what lies before the first drop layer.
 */
export const keptShares = Effect.fnUntraced(function* (
  cases: ReadonlyArray<Case>,
  grid: ReadonlyArray<number>,
  progress: (text: string) => Effect.Effect<void>,
) {
  const engine = yield* Engine
  const drops = engine.model.executor.layout.segments.length - 1
  const found = yield* Effect.forEach(
    cases,
    Effect.fnUntraced(function* ({ id, prompt }, i) {
      yield* progress(`rows kept: prompt ${i + 1} of ${cases.length} …`)
      return yield* Effect.forEach(
        grid,
        Effect.fnUntraced(function* (p) {
          const all = Array.from({ length: drops }, () => p)
          const { kept } = yield* ask({ requestId: `kept ${id} ${p}`, prompt, drop: true, p: all, maxTokens: 1 })
          return { tokens: prompt.length, p, kept: kept.slice(1) } satisfies KeptPoint
        }),
      )
    }),
  )
  const groups = Map.groupBy(found.flat(), ({ tokens, p }) => `${tokens} ${p}`)
  return [...groups.values()]
    .map((group): KeptPoint => {
      const { tokens, p, kept } = group[0]!
      return { tokens, p, kept: kept.map((_, i) => mean(group.map((one) => one.kept[i]!))) }
    })
    .toSorted((a, b) => a.tokens - b.tokens || a.p - b.p)
})
