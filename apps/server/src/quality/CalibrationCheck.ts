import type { DropLayer } from "@uniprefill/model/DropSchedule"
import { Effect } from "effect"
import { type CalibrationPlan, isOver, type LazyEngine, measure } from "./CalibrationPlan.ts"
import { isLost, type Measure, scheduleKey, type Verdict, verdictOf } from "./CalibrationVerdict.ts"

/** What chosen drop layers did on prompts that they were not chosen by. */
export interface Check {
  readonly layers: ReadonlyArray<DropLayer>
  /** Of the prompts that were asked: not all of them where it failed early or time was over. */
  readonly verdict: Verdict
  readonly outcome: "passed" | "failed" | "unfinished"
  /** What fails by itself on the prompts that diverged. Null unless failed, and where time did not suffice to tell. */
  readonly blamed: DropLayer | null
}

/**
 * Asks the fresh prompts under a schedule. It passes if its answers diverge by no more than the budget and McNemar's test sees no loss: the
 * share of answers that may be lost bounds the choice, but with the prompts of a check one unlucky answer is no finding. Null where there
 * was no time for any prompt.
 */
export const checkFresh = Effect.fnUntraced(function* (
  plan: CalibrationPlan,
  engine: LazyEngine,
  layers: ReadonlyArray<DropLayer>,
) {
  const { freshCases, progress } = plan
  const budget = { ...plan.budget, loss: 1 }
  const measures: Array<Measure> = []
  const checked = (outcome: Check["outcome"], blamed: DropLayer | null = null): Check => {
    const verdict = verdictOf(measures, budget)
    return { layers, verdict: { ...verdict, isSafe: outcome === "passed" }, outcome, blamed }
  }
  for (const [i, one] of freshCases.entries()) {
    if (yield* isOver(plan)) return measures.length === 0 ? null : checked("unfinished")
    yield* progress(`check of ${scheduleKey(layers)}: fresh prompt ${i + 1} of ${freshCases.length} …`)
    measures.push(yield* measure(plan, engine, layers, one))
    if (isLost(measures, freshCases.length, budget)) break
  }
  const isPassed = measures.length === freshCases.length && verdictOf(measures, budget).isSafe
  return isPassed ? checked("passed") : checked("failed", yield* blame(plan, engine, layers, measures))
})

/** The layer that diverges most by itself on the fresh prompts that diverged. Null where time did not suffice. */
const blame = Effect.fnUntraced(function* (
  plan: CalibrationPlan,
  engine: LazyEngine,
  layers: ReadonlyArray<DropLayer>,
  measures: ReadonlyArray<Measure>,
) {
  const anyRight = measures.some(({ wasRight }) => wasRight)
  const isDiverged = ({ kl, wasRight, isRight }: Measure) =>
    (wasRight || !anyRight) && (kl > plan.budget.answerKl || (wasRight && !isRight))
  const diverged = plan.freshCases.filter((_, i) => i < measures.length && isDiverged(measures[i]!))
  let worst = layers[0]!
  let most = -1
  if (layers.length === 1) return worst
  for (const layer of layers) {
    let sum = 0
    for (const one of diverged) {
      if (yield* isOver(plan)) return null
      yield* plan.progress(`which layer is to blame: ${layer.layer} at p ${layer.p} …`)
      sum += (yield* measure(plan, engine, [layer], one)).kl
    }
    if (sum > most) {
      worst = layer
      most = sum
    }
  }
  return worst
})
