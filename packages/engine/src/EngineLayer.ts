import { Executor, type ExecutorError } from "@uniprefill/executor/contract/Executor"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { type RecordedEvent, type RecordingHeader, recordingHeader } from "@uniprefill/recording/Recording"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import type { DriverConfig } from "@uniprefill/scheduler/Driver"
import { fcfs, type Policy } from "@uniprefill/scheduler/Policy"
import { servingDefaults } from "@uniprefill/scheduler/ServingDefaults"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Clock, Effect, Exit, Layer, type Scope } from "effect"
import { type AnswerStreams, Engine, EngineError, type EngineModel } from "./Engine.ts"
import { makeEngineMetrics } from "./EngineMetrics.ts"
import { describe } from "./ExecutorLoop.ts"
import { Generation } from "./Generation.ts"
import { checkRequest } from "./RequestCheck.ts"
import { modelFingerprint, PageKeys } from "./PageKeys.ts"
import type { PrefixEvent } from "./PrefixEvents.ts"
import { ServingLoop } from "./ServingLoop.ts"

export interface EngineConfig {
  readonly spec: ModelSpec
  readonly schedule: DropSchedule
  readonly costModel: CostModel
  /** Label of the metrics. */
  readonly modelName: string
  /** Longest prompt + output, in tokens; at most what the model and the executor hold, which is also the default. */
  readonly maxModelLen?: number | undefined
  readonly policy?: Policy | undefined
  /** Predicted time that a step may take while requests decode: bounds inter-token latency. */
  readonly stepBudgetMicros?: number | undefined
  /** The same while none decodes. */
  readonly idleStepBudgetMicros?: number | undefined
  readonly maxPrefillWaitMicros?: number | undefined
  /** Share of every step's time that decodes cannot take from prompts. */
  readonly prefillFloor?: number | undefined
  /** Output tokens of each decode that memory is kept for when a prompt is admitted. */
  readonly headroomTokens?: number | undefined
  /** A preempted answer that has waited longer takes the memory of others; 0: none does. */
  readonly maxPauseMicros?: number | undefined
  /** p that prompts fall to whose first token would be late otherwise; undefined: no prompt's p is lowered. */
  readonly sloP?: number | undefined
  /** Times passed over or preempted, and time as the oldest prompt, from which a request is served first. */
  readonly protectAfter?: number | undefined
  readonly protectAfterMicros?: number | undefined
  /** With 2 the next step is planned while one runs: better for a fast device, a step later for a new request. */
  readonly maxStepsInFlight?: 1 | 2 | undefined
  /** Requests, and their prompt tokens, that may wait for admission. */
  readonly maxWaiting?: number | undefined
  readonly maxWaitingTokens?: number | undefined
  /** How many times what is left of the queue a tenant with a name may fill. */
  readonly tenantShare?: number | undefined
  /** Output tokens that a reader may leave unread before its request is ended with `SlowReader`. */
  readonly maxUnreadTokens?: number | undefined
  /**
   * Time between two events of a stream, in ms: tokens that come sooner go together, but for the first and the last. 0, the
   * default, has an event for every step, as whoever times tokens needs.
   */
  readonly streamIntervalMs?: number | undefined
  /** Whether prompts share the pages of equal prefixes; true by default. */
  readonly prefixCaching?: boolean | undefined
  /** Takes a recording of the serving loop: its header, then every event. `code` names the version that makes it. */
  readonly record?:
    | { readonly write: (line: RecordingHeader | RecordedEvent) => void; readonly code: string }
    | undefined
  /** Takes what changes in the prefix cache, as it changes and in order. */
  readonly prefixEvents?: ((event: PrefixEvent) => void) | undefined
  /** Executor failures in a row after which the engine is unhealthy. */
  readonly maxFailures?: number | undefined
}

/** Defaults of {@link EngineConfig} beside `servingDefaults`; step budgets are for an executor on the CPU. */
export const engineDefaults = {
  stepBudgetMicros: servingDefaults.stepBudgetMicros.cpu,
  idleStepBudgetMicros: servingDefaults.idleStepBudgetMicros.cpu,
  maxUnreadTokens: 1_024,
  streamIntervalMs: 0,
  maxFailures: 3,
} as const

/**
 * The engine over the Driver. It runs for as long as the layer's scope is open; requests that are running when it closes
 * fail, once the executor has let go of the step in flight.
 */
export const layer = (config: EngineConfig): Layer.Layer<Engine, EngineError, Executor | Tokenizer> =>
  Layer.effect(Engine, make(config))

const make = (
  config: EngineConfig,
): Effect.Effect<Engine["Service"], EngineError, Executor | Tokenizer | Scope.Scope> =>
  Effect.gen(function* () {
    const executor = yield* Executor
    const tokenizer = yield* Tokenizer
    const clock = yield* Clock.Clock
    const context = yield* Effect.context()
    const { info } = executor
    const { spec, schedule } = config
    const longest = Math.min(spec.maxPositions, info.maxTokens)
    const maxModelLen = config.maxModelLen ?? longest
    if (maxModelLen < 2 || maxModelLen > longest) {
      const detail = `max_model_len must be between 2 and ${longest}, got ${maxModelLen}; the model takes ${spec.maxPositions} tokens, the executor ${info.maxTokens}`
      return yield* new EngineError({ reason: "InvalidRequest", field: "max_model_len", detail })
    }
    const { device, layout, slabs, tensorParallel } = info
    const ranks = info.ranks ?? Array.from({ length: tensorParallel }, () => ({ device, weightBytes: null }))
    const metrics = makeEngineMetrics({ modelName: config.modelName, layout, slabs, ranks, maxModelLen }, context)
    const driver: DriverConfig = {
      layout: info.layout,
      schedule,
      slabs: info.slabs,
      slots: info.slots,
      stateSlots: info.stateSlots,
      chunkRows: info.chunkRows,
      maxRowsPerStep: info.maxRowsPerStep,
      costModel: config.costModel,
      policy: config.policy ?? fcfs,
      stepBudgetMicros: config.stepBudgetMicros ?? engineDefaults.stepBudgetMicros,
      idleStepBudgetMicros: config.idleStepBudgetMicros ?? engineDefaults.idleStepBudgetMicros,
      maxPrefillWaitMicros: config.maxPrefillWaitMicros ?? servingDefaults.maxPrefillWaitMicros,
      protectAfter: config.protectAfter ?? servingDefaults.protectAfter,
      protectAfterMicros: config.protectAfterMicros ?? servingDefaults.protectAfterMicros,
      maxStepsInFlight: info.maxStepsInFlight === 1 ? 1 : (config.maxStepsInFlight ?? servingDefaults.maxStepsInFlight),
      maxModelLen,
      maxWaiting: config.maxWaiting ?? servingDefaults.maxWaiting,
      maxWaitingTokens: config.maxWaitingTokens ?? servingDefaults.maxWaitingTokens,
      tenantShare: config.tenantShare ?? servingDefaults.tenantShare,
      prefillFloor: config.prefillFloor ?? servingDefaults.prefillFloor,
      headroomTokens: config.headroomTokens ?? servingDefaults.headroomTokens,
      maxPauseMicros: config.maxPauseMicros ?? servingDefaults.maxPauseMicros,
      sloP: config.sloP,
    }
    const { record } = config
    record?.write(recordingHeader(driver, spec, record.code))
    const loop = new ServingLoop({
      driver,
      executor,
      metrics,
      record: record?.write,
      prefixEvents: config.prefixEvents,
      now: () => Number(clock.monotonicTimeNanosUnsafe() / 1000n),
      maxFailures: config.maxFailures ?? engineDefaults.maxFailures,
      maxUnreadTokens: config.maxUnreadTokens ?? engineDefaults.maxUnreadTokens,
      streamIntervalMs: config.streamIntervalMs ?? engineDefaults.streamIntervalMs,
    })
    const reject = (error: EngineError): EngineError => {
      metrics.rejected(error.reason)
      return error
    }
    const fingerprint = modelFingerprint(spec)
    const { scheduler } = loop.driver
    const load = () => ({
      ...loop.status(),
      preemptions: scheduler.preemptions,
      prefixQueries: scheduler.memory.prefixQueries,
      prefixHits: scheduler.memory.prefixHits,
    })
    yield* metrics.watch(load, scheduler.state.tenants)
    const serve = Effect.onExit(loop.run, (exit) => Effect.sync(() => loop.halt(whyEnded(exit))))
    yield* Effect.forkScoped(serve)

    return Engine.of({
      model: { spec, executor: info, maxModelLen, drops: schedule.dropLayers.length > 0 } satisfies EngineModel,
      generate: (request) =>
        Effect.suspend(() => {
          const fault = checkRequest(request, spec, schedule)
          if (fault !== null) return Effect.fail(reject(fault))
          const { prompt, answers = 1, skipSpecialTokens, tenant = "", cacheSalt = "" } = request
          const keys =
            config.prefixCaching === false ? null : PageKeys.make(fingerprint, tenant, cacheSalt, info.layout.pageSize)
          const pageKeys = keys?.push(prompt)
          const generations = Array.from({ length: answers }, (_, answer) => {
            const detokenizer = tokenizer.detokenizer({ skipSpecialTokens, after: prompt })
            return new Generation(request, answer, detokenizer, keys)
          })
          const submit = Effect.suspend(() => {
            const admitted = loop.submit(request, generations, pageKeys)
            return admitted instanceof EngineError ? Effect.fail(reject(admitted)) : Effect.succeed(admitted)
          })
          const leave = Effect.sync(() => generations.forEach((one) => loop.abort(one)))
          const [first, ...others] = generations.map(({ events }) => events)
          return Effect.acquireRelease(submit, () => leave).pipe(
            Effect.flatMap((admitted) => admitted.taken),
            Effect.as<AnswerStreams>([first!, ...others]),
          )
        }),
      room: (requests, promptTokens, tenant) =>
        Effect.suspend(() => {
          const refusal = loop.room(requests, promptTokens, tenant)
          return refusal === null ? Effect.void : Effect.fail(reject(refusal))
        }),
      status: Effect.sync(() => loop.status()),
      drain: Effect.suspend(() => {
        loop.drain()
        return loop.idle.await
      }),
      abortAll: Effect.sync(() => loop.abortAll()),
    })
  })

const whyEnded = (exit: Exit.Exit<never, ExecutorError>): string => {
  if (Exit.hasInterrupts(exit)) return "the engine has been shut down"
  return `the engine stopped: ${Exit.isFailure(exit) ? describe(exit.cause) : "its loop ended"}`
}
