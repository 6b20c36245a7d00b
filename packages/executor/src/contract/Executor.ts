import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { Context, type Effect, Schema } from "effect"

/**
 * Carries out StepPlans. It takes a step while another runs, so that a device never waits for its host; results come in the
 * order of the steps.
 *
 * A plan is checked as a whole before anything of it is computed: a malformed one is an `InvalidPlan` failure that names
 * section and record. After a step that fails, by its plan or its device, the executor has forgotten everything but the
 * contents that no slot was opened for: see {@link StepPlan}.
 */
export class Executor extends Context.Service<
  Executor,
  {
    readonly info: ExecutorInfo
    /**
     * Checks and stores what a plan will open a slot with. Fails with `InvalidArgument` where a field is out of range, which
     * concerns that request alone. Ids are positive and used once.
     */
    readonly putContent: (id: number, content: RequestContent) => Effect.Effect<void, ExecutorError>
    /** Forgets a content that no plan has opened. Unknown ids are ignored. */
    readonly forgetContent: (id: number) => Effect.Effect<void>
    /**
     * Takes a step to be carried out after those before it, and returns at once; the plan is the caller's again. Requires
     * fewer than `info.maxStepsInFlight` steps without an answer. Fails only when the executor is lost.
     */
    readonly enqueue: (plan: StepPlan) => Effect.Effect<void, ExecutorError>
    /**
     * Waits for the oldest step without an answer. Where it failed, those behind it have failed with it: this failure is the
     * answer to all of them. The result is the caller's until it asks for the next but one.
     */
    readonly nextResult: Effect.Effect<StepResult, ExecutorError>
    /** Fails when the executor is gone for good. */
    readonly lost: Effect.Effect<never, ExecutorError>
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
  /** Rows of prompts are cut at multiples of this; 64 where nothing is said. */
  readonly chunkRows?: number | undefined
  /** Prefill and decode rows of one step. */
  readonly maxRowsPerStep: number
  /** Longest prompt + output of a slot, in tokens. */
  readonly maxTokens: number
  /** Steps that may be enqueued without an answer. */
  readonly maxStepsInFlight: number
  /** Ranks that share every step; `layout` and `slabs` are those of each. */
  readonly tensorParallel: number
  /** What each rank runs on, rank by rank, from executors that have a model. */
  readonly ranks?: ReadonlyArray<RankInfo> | undefined
}

export interface RankInfo {
  /** `cuda:1`, or `cpu`. */
  readonly device: string
  /** Weights that the rank holds; null where the executor does not count them. */
  readonly weightBytes: number | null
}

/** A request as the executor knows it. */
export interface RequestContent {
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
  /**
   * How many of the most likely tokens to report for each prompt row beside the prompt's own next one; −1 reports nothing.
   * Where it is 0 or more the request does not drop, and begins behind no cached page.
   */
  readonly promptLogprobs: number
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
