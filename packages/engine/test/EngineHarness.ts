import { assert } from "@effect/vitest"
import { type AnswerStream, Engine, type GenerateEvent, type GenerateRequest } from "@uniprefill/engine/Engine"
import { type EngineConfig, layer } from "@uniprefill/engine/EngineLayer"
import { greedy, type SamplingParameters } from "@uniprefill/executor/contract/Executor"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Layer, Stream } from "effect"
import { TestClock } from "effect/testing"
import { fileURLToPath } from "node:url"
import { schedule, type ScriptedExecutor, spec } from "./ScriptedExecutor.ts"

export const needle = fileURLToPath(new URL("../../needle-10m-deep", import.meta.url))

/** The engine over a scripted executor and the tokenizer of needle-10m-deep. */
export const engineLayer = (executor: ScriptedExecutor, config: Partial<EngineConfig> = {}) =>
  layer({
    spec,
    schedule,
    costModel: { stepMicros: (load) => 100 + load.decodeRows + load.rows.reduce((sum, rows) => sum + rows, 0) },
    modelName: "needle",
    ...config,
  }).pipe(Layer.provideMerge(Layer.mergeAll(executor.layer, Tokenizer.layer({ directory: needle }))))

let requests = 0

export const request = (
  prompt: ReadonlyArray<number>,
  fields: Partial<Omit<GenerateRequest, "sampling">> & { readonly sampling?: Partial<SamplingParameters> } = {},
): GenerateRequest => ({
  requestId: `request-${requests++}`,
  maxTokens: 16,
  stop: [],
  includeStop: false,
  skipSpecialTokens: true,
  drop: true,
  minP: undefined,
  priority: 0,
  ...fields,
  prompt: Int32Array.from(prompt),
  sampling: { ...greedy, ...fields.sampling },
})

export interface Generated {
  readonly events: ReadonlyArray<GenerateEvent>
  readonly text: string
  readonly tokens: ReadonlyArray<number>
  readonly finished: GenerateEvent & { readonly _tag: "Finished" }
}

/** Everything a request with one answer produces. */
export const collect = (engine: Engine["Service"], of: GenerateRequest) =>
  Effect.map(collectAll(engine, of), ([answer]) => answer)

/** Everything that each answer of a request produces. */
export const collectAll = (engine: Engine["Service"], of: GenerateRequest) =>
  Effect.scoped(
    Effect.gen(function* () {
      const streams = yield* engine.generate(of)
      return yield* Effect.forEach(streams, collectStream, { concurrency: "unbounded" })
    }),
  )

const collectStream = (stream: AnswerStream) =>
  Effect.gen(function* () {
    const events = yield* Stream.runCollect(stream)
    const outputs = events.filter((event) => event._tag === "Output")
    const finished = events.at(-1)
    if (finished?._tag !== "Finished") return yield* Effect.die(new Error("the stream did not end with Finished"))
    return {
      events,
      text: outputs.map((event) => event.text).join(""),
      tokens: outputs.flatMap((event) => event.tokens),
      finished,
    } satisfies Generated
  })

export const encode = (text: string) =>
  Effect.gen(function* () {
    const tokenizer = yield* Tokenizer
    return [...(yield* tokenizer.encode(text, { addSpecialTokens: false }))]
  })

/** Lets the loop's own fiber do what it can do now: it opens and closes slots one at a time. */
export const settle = Effect.forEach(Array.from({ length: 32 }), () => Effect.yieldNow, { discard: true })

/** Lets virtual time pass, no faster than the loop keeps up with where steps take 10 ms. */
export const elapse = (millis: number) =>
  Effect.gen(function* () {
    for (let left = millis; left > 0; left -= 5) {
      yield* settle
      yield* TestClock.adjust(Math.min(left, 5))
    }
    yield* settle
  })

/** Nothing runs, waits or is owned, in the scheduler and in the executor; and the books balance. */
export function assertIdle(executor: ScriptedExecutor) {
  return Effect.gen(function* () {
    const engine = yield* Engine
    yield* settle
    const { running, waiting, slabsUsed, healthy } = yield* engine.status
    assert.deepStrictEqual(
      { running, waiting, slabsUsed, healthy },
      { running: 0, waiting: 0, slabsUsed: 0, healthy: true },
    )
    assert.strictEqual(executor.device.openSlots, 0)
    assert.strictEqual(executor.stored.size, 0)
  })
}

export function provideTokenizer<A, E>(effect: Effect.Effect<A, E, Tokenizer>) {
  return Effect.provide(effect, Tokenizer.layer({ directory: needle }))
}
