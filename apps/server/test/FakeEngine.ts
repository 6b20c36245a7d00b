import {
  type AnswerStream,
  type AnswerStreams,
  Engine,
  EngineError,
  type GenerateEvent,
  type GenerateRequest,
} from "@uniprefill/engine/Engine"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { Effect, Exit, Layer, Scope, Stream } from "effect"

/**
 * An engine for tests of what is above it. Answers `maxTokens` tokens ` 0 1 2 …`, `delayMs` apart, to each of a request's
 * answers; what it was asked and which requests were given up is open to the test.
 */
export class FakeEngine {
  delayMs = 0
  /** What requests are refused with, once `capacity` of them have been taken. */
  refuse: EngineError | undefined
  capacity = 0
  /** What {@link room} was asked, and what it answers with. */
  readonly asked: Array<readonly [requests: number, promptTokens: number]> = []
  noRoom: EngineError | undefined
  /** Fails an answer after this many tokens. */
  failAfter = Number.POSITIVE_INFINITY
  /** Ends an answer after this many tokens without a `Finished`. */
  vanishAfter = Number.POSITIVE_INFINITY
  /** What each token's text is instead; as many tokens are answered. */
  texts: ReadonlyArray<string> | undefined
  finishReason: "stop" | "length" = "length"
  stopReason: string | number | null = null
  /** Answers are served at a lower p than the schedule's. */
  lowered = false
  stalledMicros = 0
  waiting = 0
  draining = false
  /** Everything that runs ends with the reason `abort`. */
  ending = false
  readonly #sleepers: Array<() => void> = []
  lastFailure: string | null = null
  readonly requests: Array<GenerateRequest> = []
  /** The request of every answer that was given up. */
  readonly aborted: Array<string> = []
  /** How many answers of each request have not ended. */
  readonly running = new Map<string, number>()
  /** What is reported as found in the prefix cache. */
  cachedTokens = 0
  readonly #idle: Array<() => void> = []

  get layer(): Layer.Layer<Engine> {
    return Layer.succeed(Engine, {
      model: { spec: {} as ModelSpec, executor: {} as never, maxModelLen: 4096, drops: true },
      generate: (request) => this.#generate(request),
      room: (requests, promptTokens) =>
        Effect.suspend(() => {
          this.asked.push([requests, promptTokens])
          return this.noRoom === undefined ? Effect.void : Effect.fail(this.noRoom)
        }),
      status: Effect.sync(() => ({
        running: this.running.size,
        waiting: this.stalledMicros > 0 ? 3 : this.waiting,
        draining: this.draining,
        slabsUsed: 0,
        slabs: 100,
        stalledMicros: this.stalledMicros,
        stepInFlight: this.stalledMicros > 0 ? 17 : 0,
        healthy: this.lastFailure === null,
        failures: this.lastFailure === null ? 0 : 3,
        lastFailure: this.lastFailure,
      })),
      abortAll: Effect.sync(() => this.abortAll()),
      drain: Effect.callback<void>((resume) => {
        this.draining = true
        if (this.running.size === 0) resume(Effect.void)
        else this.#idle.push(() => resume(Effect.void))
      }),
    })
  }

  abortAll(): void {
    this.ending = true
    this.release()
  }

  /** Lets what runs go on at once, in place of `delayMs` that would pass on a clock. */
  release(): void {
    this.delayMs = 0
    for (const wake of this.#sleepers.splice(0)) wake()
  }

  #generate(request: GenerateRequest): Effect.Effect<AnswerStreams, EngineError, Scope.Scope> {
    return Effect.suspend(() => {
      if (this.refuse !== undefined && this.requests.length >= this.capacity) return Effect.fail(this.refuse)
      if (this.draining) {
        return Effect.fail(new EngineError({ reason: "Draining", field: null, detail: "the server is shutting down" }))
      }
      this.requests.push(request)
      const { answers = 1 } = request
      this.running.set(request.requestId, answers)
      const close = Effect.addFinalizer(() =>
        Effect.sync(() => {
          for (let left = this.running.get(request.requestId) ?? 0; left > 0; left--)
            this.aborted.push(request.requestId)
          this.#finish(request.requestId)
        }),
      )
      const [first, ...others] = Array.from({ length: answers }, () => this.#events(request))
      return Effect.as(close, [first!, ...others])
    })
  }

  #finish(requestId: string): void {
    this.running.delete(requestId)
    if (this.running.size === 0) for (const resume of this.#idle.splice(0)) resume()
  }

  #events(request: GenerateRequest): AnswerStream {
    const tokens = Array.from({ length: this.texts?.length ?? request.maxTokens ?? 8 }, (_, i) => i + 1000)
    const broken = new EngineError({ reason: "Failed", field: null, detail: "step 12: device lost" })
    const finished = Effect.sync((): GenerateEvent => {
      const left = this.running.get(request.requestId)! - 1
      if (left > 0) this.running.set(request.requestId, left)
      else this.#finish(request.requestId)
      return {
        _tag: "Finished",
        reason: this.ending ? "abort" : this.finishReason,
        stopReason: this.stopReason,
        promptTokens: request.prompt.length,
        completionTokens: tokens.length,
        cachedTokens: this.cachedTokens,
        lowered: this.lowered,
        kept: request.drop ? [1, 0.5, 0.25] : [1],
        bitmaps: [],
        times: { arrivedMicros: 0, firstScheduledMicros: 1500, firstTokenMicros: 12_000, finishedMicros: 20_000 },
      }
    })
    const output = (token: number, i: number): Effect.Effect<GenerateEvent, EngineError> =>
      Effect.gen({ self: this }, function* () {
        if (this.delayMs > 0) {
          const woken = Effect.callback<void>((resume) => void this.#sleepers.push(() => resume(Effect.void)))
          yield* Effect.race(Effect.sleep(this.delayMs), woken)
        }
        if (i >= this.failAfter) return yield* broken
        const { logprobs } = request.sampling
        const alternatives = Array.from({ length: logprobs }, (_, k) => [token + k, -0.5 - k] as const)
        return {
          _tag: "Output" as const,
          tokens: [token],
          text: this.texts?.[i] ?? ` ${i}`,
          logprobs: logprobs < 0 ? [] : [[[token, -0.5] as const, ...alternatives]],
          ...(i > 0 || request.promptLogprobs === undefined
            ? {}
            : { promptLogprobs: Array.from(request.prompt.subarray(1), (of) => [[of, -0.25] as const]) }),
        }
      })
    const outputs = Stream.mapEffect(Stream.fromIterable(tokens.entries()), ([i, token]) => output(token, i)).pipe(
      Stream.takeWhile(() => !this.ending),
    )
    if (this.vanishAfter < tokens.length) return Stream.take(outputs, this.vanishAfter)
    return Stream.concat(outputs, Stream.fromEffect(finished))
  }
}

export const engineError = (reason: EngineError["reason"], detail: string, field: string | null = null): EngineError =>
  new EngineError({ reason, field, detail })

/** Closes a scope that a test opened. */
export const closeScope = (scope: Scope.Closeable): Promise<void> => Effect.runPromise(Scope.close(scope, Exit.void))
