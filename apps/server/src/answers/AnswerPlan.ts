import { randomUUID } from "node:crypto"
import type { GenerateEvent, GenerateRequest } from "@uniprefill/engine/Engine"
import { cut } from "@uniprefill/openai/Text"
import { Clock, Effect } from "effect"
import { type ApiError, apiError } from "../http/ApiError.ts"
import { GatewayHints } from "../http/GatewayHints.ts"
import { Tenant } from "../http/Tenant.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { Dropping } from "./Dropping.ts"
import { type SamplingRequest, samplingOf } from "./Sampling.ts"

/** A request for answers as the engine requests that it stands for, checked as far as it can be before any work. */
export interface AnswerPlan {
  readonly id: string
  readonly model: string
  readonly createdSeconds: number
  /** One for each prompt, with n answers each; none where no tokens are asked for. */
  readonly requests: ReadonlyArray<GenerateRequest>
  /** Tokens of all prompts, each counted once. */
  readonly promptTokens: number
  /** In the order of their index: the n answers of the first prompt, then those of the second … */
  readonly choices: ReadonlyArray<PlannedChoice>
  readonly report: boolean
  /** p of requests that were lowered for a first token that would have been late; null where none is. */
  readonly sloP: number | null
  /** Token ids whose end of an answer is no stop reason that a client asked for. */
  readonly silentStops: ReadonlySet<number>
}

export interface PlannedChoice {
  readonly index: number
  readonly request: GenerateRequest
  /** Which of the request's answers this is, from 0. */
  readonly answer: number
  /** What the answer begins with: the prompt when it is echoed, else nothing. */
  readonly prefix: string
  /** False where `max_tokens` is 0: the engine's one token, if it is asked at all, is not the client's. */
  readonly outputs: boolean
}

export interface PlannedPrompt {
  readonly tokens: Int32Array
  /** The prompt as the answer repeats it, or nothing. */
  readonly echoed: string
}

/** What the endpoints have in common, whatever their fields are called. */
export interface AnswerRequest extends SamplingRequest {
  /** Undefined: as many as fit. */
  readonly maxTokens: number | undefined
  readonly logprobsAsked: number
  /** How many alternatives to report for each prompt token; −1 for nothing. */
  readonly promptLogprobs: number
}

/** What an answer is made of: the engine's events, and before them the prompt's log-probabilities where they are asked for. */
export type AnswerEvent =
  | GenerateEvent
  | {
      readonly _tag: "Prompt"
      /** The prompt token that the first entry is of. */
      readonly first: number
      /** One entry per prompt token: that token first, then the most likely ones; the first token's is empty. */
      readonly logprobs: ReadonlyArray<ReadonlyArray<readonly [token: number, logprob: number]>>
    }

export type Finished = Extract<GenerateEvent, { readonly _tag: "Finished" }>

/** Fails with 400. */
export const planAnswers = Effect.fnUntraced(function* (
  idPrefix: string,
  model: string,
  request: AnswerRequest,
  prompts: ReadonlyArray<PlannedPrompt>,
): Effect.fn.Return<AnswerPlan, ApiError, ServedModel | Tenant | GatewayHints | Dropping> {
  const served = yield* ServedModel
  const tenant = yield* Tenant
  const hints = yield* GatewayHints
  const dropping = yield* Dropping
  const sampling = yield* Effect.fromResult(samplingOf(request, request.logprobsAsked, served))
  yield* checkDropping(request, served)
  const n = request.n ?? 1
  const ttftSloMs = request.ttft_slo_ms ?? hints.ttftMs ?? served.ttftSloMs
  // The client's own id may come twice at the same time; the engine's names must differ.
  const unique = randomUUID()
  const { maxTokens, promptLogprobs } = request
  const outputs = maxTokens !== 0
  const requests = prompts.map(({ tokens }, p): GenerateRequest => ({
    requestId: `${unique}-${p}`,
    prompt: tokens,
    answers: n,
    maxTokens: maxTokens === undefined ? undefined : Math.max(1, maxTokens),
    sampling,
    stop: typeof request.stop === "string" ? [request.stop] : (request.stop ?? []),
    includeStop: request.include_stop_str_in_output ?? false,
    skipSpecialTokens: request.skip_special_tokens ?? true,
    // Rows that were dropped have no log-probabilities.
    drop: dropping.enabled && promptLogprobs < 0 && (request.uniprefill?.enabled ?? true),
    ...askedP(request.uniprefill?.p ?? undefined, served),
    priority: request.priority ?? hints.priority ?? 0,
    tenant,
    cacheSalt: request.cache_salt ?? undefined,
    firstTokenWithinMicros: typeof ttftSloMs === "number" ? Math.round(ttftSloMs * 1000) : undefined,
    promptLogprobs: promptLogprobs < 0 ? undefined : promptLogprobs,
  }))
  const choices = prompts.flatMap(({ echoed }, p) =>
    Array.from({ length: n }, (_, answer) => ({
      index: p * n + answer,
      request: requests[p]!,
      answer,
      prefix: echoed,
      outputs,
    })),
  )
  const asked = new Set(request.stop_token_ids ?? [])
  return {
    id: `${idPrefix}${request.request_id ?? hints.requestId ?? randomUUID().replaceAll("-", "")}`,
    model,
    createdSeconds: Math.floor((yield* Clock.currentTimeMillis) / 1000),
    requests: outputs || promptLogprobs >= 0 ? requests : [],
    promptTokens: prompts.reduce((sum, { tokens }) => sum + tokens.length, 0),
    choices,
    report: request.uniprefill?.report ?? false,
    sloP: served.sloP,
    silentStops: new Set(served.eosTokenIds.filter((token) => !asked.has(token))),
  }
})

/** What an answer says of the tokens that it dropped: where that was asked for, and always where its p was lowered. */
export const dropReport = ({ report, sloP }: AnswerPlan, ends: ReadonlyArray<Finished>) => {
  const isLowered = ends.some((end) => end.lowered)
  if (ends.length === 0 || !(report || isLowered)) return {}
  return {
    uniprefill: {
      ...(report ? { kept: ends[0]!.kept } : {}),
      ...(isLowered ? { lowered_p: sloP! } : {}),
    },
  }
}

/** The stop string or token that ended an answer, unless it is the model's own end, which nobody asked about. */
export const stopReasonOf = (plan: AnswerPlan, { stopReason }: Finished): string | number | null =>
  typeof stopReason === "number" && plan.silentStops.has(stopReason) ? null : stopReason

/** The name to answer with. A request that names no model means the one there is. */
export const checkModel = (
  name: string | null | undefined,
  served: ServedModel["Service"],
): Effect.Effect<string, ApiError> => {
  if (name === null || name === undefined) return Effect.succeed(served.names[0]!)
  if (served.names.includes(name)) return Effect.succeed(name)
  const known = served.names.map((servedName) => `"${servedName}"`).join(", ")
  return Effect.fail(apiError(404, `the model "${cut(name, 128)}" does not exist; this server has ${known}`, "model"))
}

/** A p below the schedule's is meant for every drop layer; another raises those that are lower. */
const askedP = (p: number | undefined, { scheduleP }: ServedModel["Service"]) =>
  p !== undefined && isBelow(p, scheduleP) ? { minP: undefined, p: scheduleP.map(() => p) } : { minP: p }

const isBelow = (p: number, scheduleP: ReadonlyArray<number>) => p < Math.min(...scheduleP)

const checkDropping = (
  { uniprefill, promptLogprobs }: AnswerRequest,
  { scheduleP, pFloor }: ServedModel["Service"],
) => {
  const p = uniprefill?.p
  if (promptLogprobs >= 0 && (uniprefill?.enabled === true || typeof p === "number")) {
    const message =
      "log-probabilities of the prompt need every row of it: leave out uniprefill.enabled and uniprefill.p"
    return Effect.fail(apiError(400, message, "uniprefill"))
  }
  if (typeof p !== "number") return Effect.void
  if (uniprefill?.enabled === false) {
    return Effect.fail(apiError(400, "uniprefill.p has no effect with uniprefill.enabled = false", "uniprefill.p"))
  }
  if (scheduleP.length === 0) {
    return Effect.fail(apiError(400, "uniprefill.p has no effect: this model is served dense", "uniprefill.p"))
  }
  if (!isBelow(p, scheduleP) || (pFloor !== null && p >= pFloor)) return Effect.void
  const own = Math.min(...scheduleP)
  const message =
    pFloor === null
      ? `uniprefill.p may only be raised: the model's schedule has p = ${own}, got ${p}`
      : `uniprefill.p may be lowered to ${pFloor} on this server, got ${p}`
  return Effect.fail(apiError(400, message, "uniprefill.p"))
}
