import { randomUUID } from "node:crypto"
import { Engine, type GenerateEvent, type GenerateRequest } from "@uniprefill/engine/Engine"
import { Context, Effect, Layer, Metric, type Scope, Semaphore, Stream } from "effect"
import { ServedModel } from "../model/ServedModel.ts"
import { klOf, type Logprobs } from "../quality/Divergence.ts"

/**
 * Makes some answers again without dropping tokens, and measures how they differ: whether dropping costs accuracy on what
 * this server is really asked. A shadow waits until nothing else does, one at a time, at the lowest priority; what it
 * would cost more is left out.
 */
export class Shadow extends Context.Service<
  Shadow,
  {
    /** Takes note of an answer that is being made; returns where its events are to be shown, undefined to leave it out. */
    readonly watch: (request: GenerateRequest, answer: number) => ((event: GenerateEvent) => void) | undefined
  }
>()("uniprefill/Shadow") {
  static readonly none: Layer.Layer<Shadow> = Layer.succeed(Shadow, { watch: () => undefined })

  static readonly layer = (ratio: number): Layer.Layer<Shadow, never, Engine | ServedModel> =>
    ratio === 0 ? Shadow.none : Layer.effect(Shadow, make(ratio))
}

/** Alternatives of the first token that are compared. */
const alternatives = 20

/** Shadows that may wait for an idle moment. */
const mostWaiting = 4

/** How long one waits for it, in ms. */
const patienceMs = 60_000

const lowestPriority = 0x7fff_ffff

const make = (ratio: number): Effect.Effect<Shadow["Service"], never, Engine | ServedModel | Scope.Scope> =>
  Effect.gen(function* () {
    const engine = yield* Engine
    const { names } = yield* ServedModel
    const context = yield* Effect.context()
    const scope = yield* Effect.scope
    const attributes = { model_name: names[0]!, engine: "0" }
    const counter = (name: string, description: string) => {
      const metric = Metric.counter(name, { description, attributes, incremental: true })
      metric.updateUnsafe(0, context)
      return () => metric.updateUnsafe(1, context)
    }
    const compared = counter("uniprefill:shadow_requests_total", "Answers made again without dropping.")
    const same = counter("uniprefill:shadow_same_answers_total", "Those of them that came out the same.")
    const skipped = counter("uniprefill:shadow_skipped_total", "Answers that were to be made again and were not.")
    const divergence = Metric.histogram("uniprefill:shadow_first_token_kl", {
      description: "Divergence of the first token's distribution from the dense one, in nats.",
      attributes,
      boundaries: [0.0001, 0.001, 0.01, 0.03, 0.1, 0.3, 1, 3, 10],
    })
    const one = yield* Semaphore.make(1)
    let waiting = 0
    let owed = 0

    const shadow = Effect.fnUntraced(function* (
      request: GenerateRequest,
      answer: number,
      tokens: ReadonlyArray<number>,
    ) {
      yield* idle(engine)
      const seed = BigInt.asUintN(64, request.sampling.seed + BigInt(answer))
      const again = (drop: boolean, maxTokens: number) =>
        answerOf(engine, {
          ...request,
          requestId: `shadow-${randomUUID()}`,
          answers: 1,
          drop,
          minP: drop ? request.minP : undefined,
          maxTokens,
          stop: [],
          priority: lowestPriority,
          firstTokenWithinMicros: undefined,
          sampling: { ...request.sampling, seed, logprobs: alternatives },
        })
      const dense = yield* again(false, tokens.length)
      const dropped = yield* again(true, 1)
      compared()
      if (dense.tokens.length === tokens.length && dense.tokens.every((token, i) => token === tokens[i])) same()
      if (dense.first !== undefined && dropped.first !== undefined) {
        divergence.updateUnsafe(klOf(dense.first, dropped.first), context)
      }
    })

    return {
      watch: (request, answer) => {
        // The share exactly, and no draws: every so-many-th answer.
        if (!request.drop || !engine.model.drops || (owed += ratio) < 1) return undefined
        owed -= 1
        const tokens: Array<number> = []
        return (event) => {
          if (event._tag === "Output") for (const token of event.tokens) tokens.push(token)
          // Prompts that were too short to drop anything have nothing to compare.
          if (event._tag !== "Finished" || event.reason === "abort" || event.kept.length < 2 || tokens.length === 0)
            return
          if (waiting >= mostWaiting) return skipped()
          waiting++
          const run = one
            .withPermits(1)(shadow(request, answer, tokens.slice(0, event.completionTokens)))
            .pipe(
              Effect.timeout(patienceMs),
              Effect.catchCause(() => Effect.sync(skipped)),
              Effect.ensuring(Effect.sync(() => waiting--)),
            )
          Effect.runForkWith(context)(Effect.forkIn(run, scope))
        }
      },
    }
  })

/** Completes when nothing waits. */
const idle = (engine: Engine["Service"]): Effect.Effect<void> =>
  Effect.flatMap(engine.status, ({ waiting }) =>
    waiting === 0 ? Effect.void : Effect.andThen(Effect.sleep(100), idle(engine)),
  )

const answerOf = (engine: Engine["Service"], request: GenerateRequest) =>
  Effect.scoped(
    Effect.gen(function* () {
      const [events] = yield* engine.generate(request)
      const tokens: Array<number> = []
      let first: Logprobs | undefined
      yield* Stream.runForEach(events, (event) =>
        Effect.sync(() => {
          if (event._tag !== "Output") return
          for (const token of event.tokens) tokens.push(token)
          first ??= event.logprobs[0]
        }),
      )
      return { tokens, first }
    }),
  )
