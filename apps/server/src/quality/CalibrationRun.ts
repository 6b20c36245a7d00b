import type { DropLayer } from "@uniprefill/model/DropSchedule"
import { Effect } from "effect"
import { type Check, checkFresh } from "./CalibrationCheck.ts"
import { type CalibrationPlan, isOver, type LazyEngine, lazyEngine, measure } from "./CalibrationPlan.ts"
import { isLost, leastPrompts, type Measure, scheduleKey, type Verdict, verdictOf } from "./CalibrationVerdict.ts"

/** Some drop layers, and what they were found to do. */
export interface Tried {
  readonly layers: ReadonlyArray<DropLayer>
  readonly verdict: Verdict
  /** Predicted time to the first token, µs. */
  readonly cost: number
}

export interface Calibrated {
  /** Each layer alone. */
  readonly singles: ReadonlyArray<Tried>
  /** Several together, in the order in which they were tried. */
  readonly trials: ReadonlyArray<Tried>
  /** What was chosen, on prompts that it was not chosen by, in that order. Only the last one can have passed. */
  readonly checks: ReadonlyArray<Check>
  readonly chosen: Tried | null
  /** Layers that time did not suffice for. */
  readonly unmeasured: ReadonlyArray<number>
  /** Whether the time was over at the end: more of it might have found more. */
  readonly isCutShort: boolean
}

/**
 * Measures every candidate layer alone; then adds safe layers to one another, earliest first, as long as they are safe together and the
 * prediction gains; then checks the best on fresh prompts. If it fails there, the layer that is to blame goes and the next best is checked.
 */
export const calibrate = Effect.fnUntraced(function* (plan: CalibrationPlan) {
  const singles: Array<Tried> = []
  const unmeasured: Array<number> = []
  for (const layer of plan.candidates) {
    if (yield* isOver(plan)) {
      unmeasured.push(layer)
      continue
    }
    yield* Effect.scoped(measureLayer(plan, layer))
    singles.push(...singlesOf(plan, layer))
  }
  // What keeps nearly everything costs more than it saves.
  const useful = singles.filter(({ verdict, cost }) => verdict.isSafe && cost < leastGain * plan.costOf([], []))
  const found = yield* Effect.scoped(choose(plan, useful))
  return { singles, ...found, unmeasured, isCutShort: yield* isOver(plan) } satisfies Calibrated
})

const isWhole = ({ cases }: CalibrationPlan, measures: ReadonlyArray<Measure>) => measures.length === cases.length

/**
 * The first prompts under every p, so that all of them share what lies before the layer; then all others under the hardest p that is not
 * given up. One that is safe vouches for those above it, which keep every block that it keeps.
 */
const measureLayer = Effect.fnUntraced(function* (plan: CalibrationPlan, layer: number) {
  const { cases, state, budget, progress } = plan
  const engine = yield* lazyEngine(plan, [layer])
  const measuresOf = (p: number) => state.measuresOf(scheduleKey([{ layer, p }]), cases)
  let open = plan.grid
  const ask = Effect.fnUntraced(function* (i: number, tried: ReadonlyArray<number>) {
    yield* progress(`layer ${layer}, p ${tried.join(", ")}: prompt ${i + 1} of ${cases.length} …`)
    for (const p of tried) yield* measure(plan, engine, [{ layer, p }], cases[i]!)
    const lost = open.findIndex((p) => isLost(measuresOf(p), cases.length, budget))
    // What is too much at one p is too much at every lower one.
    if (lost >= 0) open = open.slice(0, lost)
  })
  const first = Math.min(leastPrompts, cases.length)
  for (let i = 0; i < first && open.length > 0; i++) {
    if (yield* isOver(plan)) return
    yield* ask(i, open)
  }
  while (open.length > 0) {
    const p = open.at(-1)!
    for (let i = first; i < cases.length && open.includes(p); i++) {
      if (yield* isOver(plan)) return
      yield* ask(i, [p])
    }
    if (open.includes(p)) {
      if (verdictOf(measuresOf(p), budget).isSafe) return
      open = open.slice(0, -1)
    }
  }
})

/** What is known of one layer at every p, in the order of the grid. */
const singlesOf = (plan: CalibrationPlan, layer: number): ReadonlyArray<Tried> => {
  const { cases, grid, budget, state, costOf } = plan
  let isHarderSafe = false
  return grid
    .toReversed()
    .flatMap((p): ReadonlyArray<Tried> => {
      const layers = [{ layer, p }]
      const measures = state.measuresOf(scheduleKey(layers), cases)
      if (measures.length === 0) return []
      const verdict = verdictOf(measures, budget)
      const isSafe = isWhole(plan, measures) ? verdict.isSafe : isHarderSafe && !isLost(measures, cases.length, budget)
      isHarderSafe ||= isSafe
      return [{ layers, verdict: { ...verdict, isSafe }, cost: costOf([layer], verdict.kept) }]
    })
    .toReversed()
}

/** The best of what passes the check. `useful`: single layers, safe on the prompts of choosing. */
const choose = Effect.fnUntraced(function* (plan: CalibrationPlan, useful: ReadonlyArray<Tried>) {
  const engine = yield* lazyEngine(plan, [...new Set(useful.map(({ layers }) => layers[0]!.layer))])
  const tried = new Map<string, Tried>()
  const checks: Array<Check> = []
  const endWith = (chosen: Tried | null) => ({ trials: [...tried.values()], checks, chosen })
  let left = useful
  while (true) {
    const best = yield* combine(plan, engine, left, tried)
    if (best === null || plan.freshCases.length === 0) return endWith(best)
    const check = yield* checkFresh(plan, engine, best.layers)
    if (check === null) return endWith(best)
    checks.push(check)
    if (check.outcome !== "failed") return endWith(best)
    const { blamed } = check
    if (blamed === null) return endWith(null)
    left = left.filter(({ layers: [one] }) => one!.layer !== blamed.layer || one!.p > blamed.p)
  }
})

/** A drop layer has to save a hundredth of the time. */
const leastGain = 0.99

/** The best single, then one layer more at a time. Mutates `tried`, by drop layers. */
const combine = Effect.fnUntraced(function* (
  plan: CalibrationPlan,
  engine: LazyEngine,
  singles: ReadonlyArray<Tried>,
  tried: Map<string, Tried>,
) {
  const atMost = tried.size + plan.maxTrials
  const byCost = singles.toSorted((a, b) => a.cost - b.cost)
  let chosen = byCost[0] ?? null
  // From the earliest on: what is dropped early is saved in every layer after it.
  for (const layer of engine.layers) {
    if (chosen === null || chosen.layers.some((one) => one.layer === layer)) continue
    // The mildest p of a layer that is safe alone may still be safe together where the hardest is not.
    for (const { layers } of byCost.filter((single) => single.layers[0]!.layer === layer)) {
      const together = [...chosen.layers, ...layers].toSorted((a, b) => a.layer - b.layer)
      const key = scheduleKey(together)
      if (!tried.has(key)) {
        if (tried.size >= atMost) return chosen
        const trial = yield* tryTogether(plan, engine, together)
        if (trial === null) return chosen
        tried.set(key, trial)
      }
      const one = tried.get(key)!
      if (!one.verdict.isSafe) continue
      // Where the hardest safe p gains too little, a milder one gains less.
      if (one.cost < chosen.cost * leastGain) chosen = one
      break
    }
  }
  return chosen
})

/** Null where time did not suffice. */
const tryTogether = Effect.fnUntraced(function* (
  plan: CalibrationPlan,
  engine: LazyEngine,
  layers: ReadonlyArray<DropLayer>,
) {
  const key = scheduleKey(layers)
  const measures: Array<Measure> = []
  for (const [i, one] of plan.cases.entries()) {
    if (yield* isOver(plan)) return null
    yield* plan.progress(`layers ${key}: prompt ${i + 1} of ${plan.cases.length} …`)
    measures.push(yield* measure(plan, engine, layers, one))
    if (isLost(measures, plan.cases.length, plan.budget)) break
  }
  const verdict = verdictOf(measures, plan.budget)
  const cost = plan.costOf(
    layers.map(({ layer }) => layer),
    verdict.kept,
  )
  return { layers, verdict: { ...verdict, isSafe: verdict.isSafe && isWhole(plan, measures) }, cost } satisfies Tried
})
