import { assert } from "@effect/vitest"
import { Engine, type GenerateEvent, type GenerateRequest } from "@uniprefill/engine/Engine"
import { type EngineConfig, layer } from "@uniprefill/engine/EngineLayer"
import { greedy, type SamplingParameters } from "@uniprefill/executor/Executor"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Layer, Stream } from "effect"
import { fileURLToPath } from "node:url"
import { schedule, type ScriptedExecutor, spec } from "./ScriptedExecutor.ts"

const needle = fileURLToPath(new URL("../../needle-10m-deep", import.meta.url))

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

/** Everything a request produces. */
export const collect = (engine: Engine["Service"], of: GenerateRequest) =>
  Effect.scoped(
    Effect.gen(function* () {
      const events = yield* Stream.runCollect(yield* engine.generate(of))
      const outputs = events.filter((event) => event._tag === "Output")
      const finished = events.at(-1)
      if (finished?._tag !== "Finished") return yield* Effect.die(new Error("the stream did not end with Finished"))
      return {
        events,
        text: outputs.map((event) => event.text).join(""),
        tokens: outputs.flatMap((event) => event.tokens),
        finished,
      } satisfies Generated
    }),
  )

export const encode = (text: string) =>
  Effect.gen(function* () {
    const tokenizer = yield* Tokenizer
    return [...(yield* tokenizer.encode(text, { addSpecialTokens: false }))]
  })

/** Nothing runs, waits or is owned, in the scheduler and in the executor; and the books balance. */
export function assertIdle(executor: ScriptedExecutor) {
  return Effect.gen(function* () {
    const engine = yield* Engine
    // Slots are closed by the loop's own fiber.
    yield* Effect.yieldNow
    const { running, waiting, slabsUsed, healthy } = yield* engine.status
    assert.deepStrictEqual(
      { running, waiting, slabsUsed, healthy },
      { running: 0, waiting: 0, slabsUsed: 0, healthy: true },
    )
    assert.strictEqual(executor.runner.openSlots, 0)
  })
}

export function provideTokenizer<A, E>(effect: Effect.Effect<A, E, Tokenizer>) {
  return Effect.provide(effect, Tokenizer.layer({ directory: needle }))
}
