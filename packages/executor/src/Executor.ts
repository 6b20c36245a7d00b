import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { Context, type Effect, Schema } from "effect"

/**
 * Carries out StepPlans. Calls are made one at a time and in order; `step` may take as long as the device does.
 *
 * An executor validates a plan as a whole before it computes anything: a malformed plan is an `InvalidPlan` failure and
 * leaves the executor as it was.
 */
export class Executor extends Context.Service<
  Executor,
  {
    readonly info: ExecutorInfo
    /** Gives a slot its content. Fails with `InvalidArgument` when the slot is open or a field is out of range. */
    readonly openSlot: (content: SlotContent) => Effect.Effect<void, ExecutorError>
    /** Forgets a slot: its tables, its content, its place in the decode set. The slabs it owned are free. */
    readonly closeSlot: (slot: number) => Effect.Effect<void, ExecutorError>
    readonly step: (plan: StepPlan) => Effect.Effect<StepResult, ExecutorError>
  }
>()("@uniprefill/executor/Executor") {}

/** What an executor can hold, fixed when it starts. */
export interface ExecutorInfo {
  /** What runs the steps, for people: `cpu (avx512bf16, 2 threads)`. */
  readonly device: string
  readonly layout: KvLayout
  readonly slabs: number
  readonly stateSlots: number
  readonly slots: number
  /** Prefill and decode rows of one step. */
  readonly maxRowsPerStep: number
  /** Longest prompt + output of a slot, in tokens. */
  readonly maxTokens: number
}

/** A request as the executor knows it. */
export interface SlotContent {
  readonly slot: number
  /** Prompt tokens, then the output tokens sampled so far (a resumed request). */
  readonly tokens: Int32Array
  /** How many of `tokens` are the prompt. */
  readonly promptLength: number
  /** p of each drop layer as unsigned Q32 (0 … 2³²), or null for a request that does not drop. */
  readonly pQ32: ReadonlyArray<bigint> | null
  /** Bitmaps already decided, selection by selection; applied again, never re-scored. */
  readonly bitmaps: ReadonlyArray<Uint32Array>
  readonly sampling: SamplingParameters
  readonly returnLogits: boolean
}

/** How the next token is drawn. Applied in this order: bias and masks, penalties, temperature, top-k, min-p, top-p. */
export interface SamplingParameters {
  /** 0 is greedy: the most likely token, the lowest id on a tie. */
  readonly temperature: number
  /** 0 is off. */
  readonly topK: number
  readonly topP: number
  readonly minP: number
  readonly frequencyPenalty: number
  readonly presencePenalty: number
  readonly repetitionPenalty: number
  /** The draw for output token n depends on the seed and n alone. */
  readonly seed: bigint
  /** Tokens that end the output; not sampled before `minTokens` output tokens. */
  readonly stopTokenIds: ReadonlyArray<number>
  readonly minTokens: number
  readonly logitBias: ReadonlyArray<readonly [token: number, bias: number]>
  /** Only these may be sampled; null allows all. */
  readonly allowedTokenIds: ReadonlyArray<number> | null
  /** How many of the most likely tokens to report beside the sampled one; −1 reports nothing. */
  readonly logprobs: number
}

export const greedy: SamplingParameters = {
  temperature: 0,
  topK: 0,
  topP: 1,
  minP: 0,
  frequencyPenalty: 0,
  presencePenalty: 0,
  repetitionPenalty: 1,
  seed: 0n,
  stopTokenIds: [],
  minTokens: 0,
  logitBias: [],
  allowedTokenIds: null,
  logprobs: -1,
}

/** Why an executor failed. The first seven are the native statuses; `InvalidPlan` names a plan's section and record. */
export const ExecutorReason = Schema.Literals([
  "InvalidArgument",
  "UnsupportedModel",
  "UnsupportedDtype",
  "CorruptFile",
  "OutOfMemory",
  "DeviceLost",
  "LaunchFailed",
  "Internal",
  "InvalidPlan",
])
export type ExecutorReason = typeof ExecutorReason.Type

export class ExecutorError extends Schema.TaggedError<ExecutorError>()("ExecutorError", {
  reason: ExecutorReason,
  /** What was being done: `load model.safetensors`, `step 12`. */
  operation: Schema.String,
  /** Names and numbers. */
  detail: Schema.String,
}) {
  override get message(): string {
    return `${this.operation}: ${this.detail}`
  }
}
