import { Engine } from "@uniprefill/engine/Engine"
import type { DropLayer } from "@uniprefill/model/DropSchedule"
import { Clock, Effect, type Scope } from "effect"
import type * as EngineLive from "../model/EngineLive.ts"
import type { Case } from "./AccuracyRun.ts"
import { ask } from "./Asking.ts"
import type { CalibrationState } from "./CalibrationState.ts"
import { type Budget, type Measure, scheduleKey } from "./CalibrationVerdict.ts"
import { pathKl } from "./Divergence.ts"

type Start = Effect.Effect<Engine["Service"], EngineLive.StartError, Scope.Scope>

export interface CalibrationPlan {
  /** What the schedule is chosen by. */
  readonly cases: ReadonlyArray<Case>
  /** What it is checked on: none of `cases`. */
  readonly freshCases: ReadonlyArray<Case>
  /** Full-attention layers, ascending. */
  readonly candidates: ReadonlyArray<number>
  /** Descending. */
  readonly grid: ReadonlyArray<number>
  readonly budget: Budget
  readonly maxTokens: number
  /** Trials of several drop layers before each check at most. */
  readonly maxTrials: number
  readonly state: CalibrationState
  /** ms of the clock after which no more is begun. */
  readonly deadline: number
  /** An engine whose drop layers are these, to be closed with the scope. */
  readonly engineOf: (layers: ReadonlyArray<number>) => Start
  /** Predicted time to the first token, µs, of a prompt with such shares of its rows after each drop layer. */
  readonly costOf: (layers: ReadonlyArray<number>, kept: ReadonlyArray<number>) => number
  readonly progress: (text: string) => Effect.Effect<void>
}

export const isOver = ({ deadline }: CalibrationPlan) => Effect.map(Clock.currentTimeMillis, (now) => now >= deadline)

/** An engine with some drop layers, which starts when it is first asked. */
export interface LazyEngine {
  readonly layers: ReadonlyArray<number>
  readonly start: Start
}

export const lazyEngine = ({ engineOf }: CalibrationPlan, layers: ReadonlyArray<number>): Effect.Effect<LazyEngine> =>
  Effect.map(Effect.cached(engineOf(layers)), (start) => ({ layers, start }))

/** Alternatives that are compared at each place of an answer. */
const alternatives = 64

/** Asks one prompt, unless it is known, under some of the engine's drop layers; the others keep everything. */
export const measure = Effect.fnUntraced(function* (
  { state, maxTokens }: CalibrationPlan,
  { layers: engineLayers, start }: LazyEngine,
  layers: ReadonlyArray<DropLayer>,
  { id, prompt, isRight }: Case,
) {
  const key = scheduleKey(layers)
  const known = state.measure(key, id)
  if (known !== undefined) return known
  const engine = yield* start
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
