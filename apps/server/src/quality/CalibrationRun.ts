import { Engine } from "@uniprefill/engine/Engine"
import type { DropLayer } from "@uniprefill/model/DropSchedule"
import { Clock, Effect, type Scope } from "effect"
import type * as EngineLive from "../model/EngineLive.ts"
import type { Case } from "./AccuracyRun.ts"
import { ask } from "./Asking.ts"
import type { CalibrationState } from "./CalibrationState.ts"
import { type Budget, isLost, type Measure, scheduleKey, type Verdict, verdictOf } from "./CalibrationVerdict.ts"
import { pathKl } from "./Divergence.ts"

/** Some drop layers, and what they were found to do. */
export interface Tried {
  readonly layers: ReadonlyArray<DropLayer>
  readonly verdict: Verdict
  /** Predicted time to the first token, µs. */
  readonly cost: number
}

export interface CalibrationPlan {
  readonly cases: ReadonlyArray<Case>
  /** Full-attention layers, ascending. */
  readonly candidates: ReadonlyArray<number>
  /** Descending. */
  readonly grid: ReadonlyArray<number>
  readonly budget: Budget
  readonly maxTokens: number
  /** Trials of several drop layers at most. */
  readonly maxTrials: number
  readonly state: CalibrationState
  /** ms of the clock after which no more is begun. */
  readonly deadline: number
  /** An engine whose drop layers are these, to be closed with the scope. */
  readonly engineOf: (
    layers: ReadonlyArray<number>,
  ) => Effect.Effect<Engine["Service"], EngineLive.StartError, Scope.Scope>
  /** Predicted time to the first token, µs, of a prompt with such shares of its rows after each drop layer. */
  readonly costOf: (layers: ReadonlyArray<number>, kept: ReadonlyArray<number>) => number
  readonly progress: (text: string) => Effect.Effect<void>
}

export interface Calibrated {
  /** Each layer alone. */
  readonly singles: ReadonlyArray<Tried>
  /** Several together, in the order in which they were tried. */
  readonly trials: ReadonlyArray<Tried>
  readonly chosen: Tried | null
  /** Layers that time did not suffice for. */
  readonly unmeasured: ReadonlyArray<number>
}

/** Alternatives that are compared at each place of an answer. */
const alternatives = 64

/**
 * Measures every candidate layer alone, by p from the mildest on until one is too much; then adds safe layers to one another, earliest
 * first, as long as they are safe together and the prediction gains.
 */
export const calibrate = Effect.fnUntraced(function* (plan: CalibrationPlan) {
  const { candidates, costOf } = plan
  const singles: Array<Tried> = []
  const unmeasured: Array<number> = []
  for (const layer of candidates) {
    if (yield* isOver(plan)) {
      unmeasured.push(layer)
      continue
    }
    yield* Effect.scoped(measureLayer(plan, layer))
    for (const p of plan.grid) {
      const layers = [{ layer, p }]
      const measures = plan.state.measuresOf(scheduleKey(layers))
      if (measures.length === 0) break
      const verdict = verdictOf(measures, plan.budget)
      singles.push({
        layers,
        verdict: { ...verdict, isSafe: verdict.isSafe && isWhole(plan, measures) },
        cost: costOf([layer], verdict.kept),
      })
    }
  }
  const { trials, chosen } = yield* combine(plan, singles)
  return { singles, trials, chosen, unmeasured } satisfies Calibrated
})

const isOver = ({ deadline }: CalibrationPlan) => Effect.map(Clock.currentTimeMillis, (now) => now >= deadline)

const isWhole = ({ cases }: CalibrationPlan, measures: ReadonlyArray<Measure>) => measures.length === cases.length

/** Prompt by prompt, so that every p of a prompt shares what lies before the layer. */
const measureLayer = Effect.fnUntraced(function* (plan: CalibrationPlan, layer: number) {
  const { cases, grid, state, budget, progress } = plan
  const keyOf = (p: number) => scheduleKey([{ layer, p }])
  let open = grid
  const isMissing = () =>
    cases.some(({ id }) => !state.dense.has(id) || open.some((p) => state.measure(keyOf(p), id) === undefined))
  const giveUp = () => {
    const lost = open.findIndex((p) => {
      const measures = state.measuresOf(keyOf(p))
      return measures.length > 0 && isLost(measures, cases.length, budget)
    })
    // What is too much at one p is too much at every lower one.
    if (lost >= 0) open = open.slice(0, lost)
  }
  giveUp()
  if (!isMissing()) return
  const engine = yield* plan.engineOf([layer])
  for (const [i, one] of cases.entries()) {
    if (open.length === 0 || (yield* isOver(plan))) return
    yield* progress(`layer ${layer}, p ${open.join(", ")}: prompt ${i + 1} of ${cases.length} …`)
    for (const p of open) yield* measure(plan, engine, [layer], [{ layer, p }], one)
    giveUp()
  }
})

/** Asks one prompt under some of the engine's drop layers; the others keep everything. */
const measure = Effect.fnUntraced(function* (
  { state, maxTokens }: CalibrationPlan,
  engine: Engine["Service"],
  engineLayers: ReadonlyArray<number>,
  layers: ReadonlyArray<DropLayer>,
  { id, prompt, isRight }: Case,
) {
  const key = scheduleKey(layers)
  const known = state.measure(key, id)
  if (known !== undefined) return known
  const logprobs = Math.min(alternatives, engine.model.spec.vocabSize)
  const answer = (name: string, wanted: ReadonlyArray<DropLayer>) =>
    ask({
      requestId: `${id} ${name}`,
      prompt,
      drop: true,
      p: engineLayers.map((layer) => wanted.find((one) => one.layer === layer)?.p ?? 1),
      maxTokens,
      logprobs,
    }).pipe(Effect.provideService(Engine, engine))
  if (!state.dense.has(id)) {
    const { tokens, likely, text } = yield* answer("dense", [])
    yield* state.keepDense(id, { tokens, likely, isRight: isRight(text) })
  }
  const dense = state.dense.get(id)!
  const dropped = yield* answer(key, layers)
  const kept = layers.map(({ layer }) => dropped.kept[engineLayers.indexOf(layer) + 1] ?? 1)
  const found: Measure = {
    kl: pathKl(dense, dropped),
    isRight: isRight(dropped.text),
    wasRight: dense.isRight,
    kept,
  }
  yield* state.keep(key, id, found)
  return found
})

/** A drop layer has to save a hundredth of the time. */
const leastGain = 0.99

/** The best single, then one layer more at a time. */
const combine = Effect.fnUntraced(function* (plan: CalibrationPlan, singles: ReadonlyArray<Tried>) {
  // What keeps nearly everything costs more than it saves.
  const safe = singles.filter(({ verdict, cost }) => verdict.isSafe && cost < leastGain * plan.costOf([], []))
  const trials: Array<Tried> = []
  let chosen = safe.toSorted((a, b) => a.cost - b.cost)[0] ?? null
  if (chosen === null) return { trials, chosen }
  const engineLayers = [...new Set(safe.flatMap(({ layers }) => layers.map(({ layer }) => layer)))]
  if (engineLayers.length < 2) return { trials, chosen }
  yield* Effect.scoped(
    Effect.gen(function* () {
      const engine = yield* plan.engineOf(engineLayers)
      // From the earliest on: what is dropped early is saved in every layer after it.
      for (const layer of engineLayers) {
        if (chosen!.layers.some((one) => one.layer === layer)) continue
        // The mildest p of a layer that is safe alone may still be safe together where the hardest is not.
        const own = safe.filter(({ layers }) => layers[0]!.layer === layer).toSorted((a, b) => a.cost - b.cost)
        for (const { layers } of own) {
          if (trials.length >= plan.maxTrials || (yield* isOver(plan))) return
          const together = [...chosen!.layers, ...layers].toSorted((a, b) => a.layer - b.layer)
          const tried = yield* tryTogether(plan, engine, engineLayers, together)
          if (tried === null) return
          trials.push(tried)
          if (tried.verdict.isSafe && tried.cost < chosen!.cost * leastGain) {
            chosen = tried
            break
          }
        }
      }
    }),
  )
  return { trials, chosen }
})

/** Null where time did not suffice. */
const tryTogether = Effect.fnUntraced(function* (
  plan: CalibrationPlan,
  engine: Engine["Service"],
  engineLayers: ReadonlyArray<number>,
  layers: ReadonlyArray<DropLayer>,
) {
  const key = scheduleKey(layers)
  const measures: Array<Measure> = []
  for (const [i, one] of plan.cases.entries()) {
    if (yield* isOver(plan)) return null
    yield* plan.progress(`layers ${key}: prompt ${i + 1} of ${plan.cases.length} …`)
    measures.push(yield* measure(plan, engine, engineLayers, layers, one))
    if (isLost(measures, plan.cases.length, plan.budget)) break
  }
  const verdict = verdictOf(measures, plan.budget)
  const isSafe = verdict.isSafe && isWhole(plan, measures)
  return {
    layers,
    verdict: { ...verdict, isSafe },
    cost: plan.costOf(
      layers.map(({ layer }) => layer),
      verdict.kept,
    ),
  }
})
