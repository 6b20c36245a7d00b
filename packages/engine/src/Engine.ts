import type { ExecutorInfo, SamplingParameters } from "@uniprefill/executor/contract/Executor"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { Context, Effect, Schema, type Scope, Stream } from "effect"

/**
 * Token ids in, a stream of text out: the Effect shell over the serving loop. One engine serves one model.
 */
export class Engine extends Context.Service<
  Engine,
  {
    readonly model: EngineModel
    /**
     * Queues a request and returns the output of each of its answers. The effect succeeds once the request has been
     * accepted, so an overloaded engine answers with an error and not with a stream. Closing the scope before a stream's
     * end aborts that answer at the next commit; afterwards it owns nothing.
     */
    readonly generate: (request: GenerateRequest) => Effect.Effect<AnswerStreams, EngineError, Scope.Scope>
    /**
     * Whether the queue takes so many requests with so many prompt tokens in all, now and together: what belongs together
     * is refused before any of it is queued. They are of one tenant and one priority. Reserves nothing. `TooLong` says that it
     * never will.
     */
    readonly room: (requests: number, promptTokens: number, tenant?: string) => Effect.Effect<void, EngineError>
    readonly status: Effect.Effect<EngineStatus>
    /** Refuses new requests with `Draining`; completes when the running ones have finished. */
    readonly drain: Effect.Effect<void>
    /** Ends everything that runs or waits with the reason `abort`: each stream ends as if its answer had ended there. */
    readonly abortAll: Effect.Effect<void>
  }
>()("@uniprefill/engine/Engine") {}

export interface EngineModel {
  readonly spec: ModelSpec
  readonly executor: ExecutorInfo
  /** Longest prompt + output, in tokens. */
  readonly maxModelLen: number
  /** Whether a drop schedule is in force. */
  readonly drops: boolean
}

/** One stream for each answer, in their order. */
export type AnswerStreams = readonly [AnswerStream, ...Array<AnswerStream>]

export type AnswerStream = Stream.Stream<GenerateEvent, EngineError> & {
  /**
   * Gives every batch of events to `take` until the answer has ended, as running the stream would, but without Effects for
   * each: an answer has as many batches as tokens. Where `take` returns an effect, the next batch waits for it. Engines
   * that have nothing to gain leave it out; see {@link takeAll}.
   */
  readonly listen?: (take: TakeEvents) => Effect.Effect<void, EngineError>
}

export type TakeEvents = (events: ReadonlyArray<GenerateEvent>) => Effect.Effect<void> | null

/** Gives an answer's events to `take`, the fastest way that its engine has. */
export const takeAll = (events: AnswerStream, take: TakeEvents): Effect.Effect<void, EngineError> =>
  events.listen?.(take) ?? Stream.runForEachArray(events, (batch) => take(batch) ?? Effect.void)

export interface GenerateRequest {
  /** The shell's own name of the request; unique among those running. */
  readonly requestId: string
  readonly prompt: Int32Array
  /**
   * Answers to the prompt, from 1, which is the default, to {@link mostAnswers}. Answer i is what a request of its own with
   * the seed `sampling.seed + i` (mod 2⁶⁴) would get, but the prompt is computed once.
   */
  readonly answers?: number | undefined
  /** Undefined: as many as fit. */
  readonly maxTokens: number | undefined
  readonly sampling: SamplingParameters
  /**
   * The output ends before (or after, with `includeStop`) the first of these strings to be complete. Text of the first
   * `sampling.minTokens` tokens is not looked at.
   */
  readonly stop: ReadonlyArray<string>
  /** Also decides whether a stop token's text is part of the output. */
  readonly includeStop: boolean
  readonly skipSpecialTokens: boolean
  /** False serves this request dense. */
  readonly drop: boolean
  /** Raises p of every drop layer to at least this. */
  readonly minP: number | undefined
  /** p of each drop layer in place of the schedule's, for those who try schedules out; `minP` holds all the same. */
  readonly p?: ReadonlyArray<number> | undefined
  /** Lower is sooner. */
  readonly priority: number
  /**
   * How many of the most likely tokens to report for each row of the prompt beside the prompt's own next token; −1, which is
   * the default, reports nothing. From 0 on the request is served dense and finds nothing in the prefix cache.
   */
  readonly promptLogprobs?: number | undefined
  /** Whoever the request counts for where a policy shares fairly; prefixes are shared within a tenant only. */
  readonly tenant?: string | undefined
  /** Prefixes are shared among requests of equal salts only; none is a salt too. */
  readonly cacheSalt?: string | undefined
  /** Time from arrival by which the first token is due, in µs; for policies that look at it. */
  readonly firstTokenWithinMicros?: number | undefined
}

/** Answers to one prompt at most. */
export const mostAnswers = 64

/** What an answer brought since the last event. */
export type GenerateEvent =
  | {
      readonly _tag: "Output"
      /** Token ids sampled; may be ahead of `text` while a character or a possible stop string is incomplete. */
      readonly tokens: ReadonlyArray<number>
      /** Text that is now certain. */
      readonly text: string
      /** One entry per token when asked for: the sampled token first, then the most likely ones. */
      readonly logprobs: ReadonlyArray<ReadonlyArray<readonly [token: number, logprob: number]>>
      /**
       * With the first output of the first answer, when asked for: of each prompt token but the first, its own
       * log-probability first, then those of the most likely ones.
       */
      readonly promptLogprobs?: ReadonlyArray<ReadonlyArray<readonly [token: number, logprob: number]>> | undefined
    }
  | {
      readonly _tag: "Finished"
      readonly reason: "stop" | "length" | "abort"
      /** The stop string or stop token id that ended it. */
      readonly stopReason: string | number | null
      readonly promptTokens: number
      readonly completionTokens: number
      /** Prompt tokens that were found in the prefix cache; the same for answers that share the prompt's computation. */
      readonly cachedTokens: number
      /** Served at the operator's lower p, because first tokens would have been late otherwise. */
      readonly lowered: boolean
      /** Rows kept in each segment as a share of the prompt: 1 first, then one ratio per selection; [1] when dense. */
      readonly kept: ReadonlyArray<number>
      /** The bitmaps behind `kept`, one per selection: bit b is block b of the set before it. */
      readonly bitmaps: ReadonlyArray<Uint32Array>
      readonly times: RequestTimes
    }

/** Integer µs on the engine's clock. */
export interface RequestTimes {
  readonly arrivedMicros: number
  readonly firstScheduledMicros: number
  readonly firstTokenMicros: number
  readonly finishedMicros: number
}

export interface EngineStatus {
  readonly running: number
  readonly waiting: number
  readonly draining: boolean
  /** Slabs in use and in all. */
  readonly slabsUsed: number
  readonly slabs: number
  /** Time since the last commit while work waits, in µs; 0 when idle. */
  readonly stalledMicros: number
  /** The step that is running, 0 when none. */
  readonly stepInFlight: number
  /** False after `maxFailures` executor failures in a row, until a step succeeds; for good after a broken invariant. */
  readonly healthy: boolean
  /** Executor failures since the last step that succeeded, and what the last one was. */
  readonly failures: number
  readonly lastFailure: string | null
}

/**
 * Why a request was refused or ended: `TooLong` could never fit, `QueueFull` and `Draining` are for now, `SlowReader` did
 * not read its output, `Failed` is the executor's fault.
 */
export class EngineError extends Schema.TaggedError<EngineError>()("EngineError", {
  reason: Schema.Literals(["InvalidRequest", "TooLong", "QueueFull", "Draining", "SlowReader", "Failed"]),
  /** The request field at fault by its wire name (`max_tokens`), or null. */
  field: Schema.NullOr(Schema.String),
  detail: Schema.String,
}) {
  override get message(): string {
    return this.detail
  }
}
