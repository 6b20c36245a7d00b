import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { EngineError, type GenerateRequest, mostAnswers } from "./Engine.ts"

/**
 * Whether a request means something for this model: the executor is given only what it can carry out, so that one bad
 * request cannot fail a step that it shares with others. Fields are named as on the wire.
 */
export const checkRequest = (
  request: GenerateRequest,
  spec: ModelSpec,
  { dropLayers }: DropSchedule,
): EngineError | null => {
  const {
    prompt,
    answers = 1,
    maxTokens,
    sampling,
    stop,
    minP,
    p = dropLayers.map((drop) => drop.p),
    priority,
    firstTokenWithinMicros,
    tenant = "",
    promptLogprobs = -1,
  } = request
  const { vocabSize } = spec
  const invalid = (field: string, detail: string) =>
    new EngineError({ reason: "InvalidRequest", field, detail: `${field}: ${detail}` })
  const range = (field: string, value: number, low: number, high: number) =>
    value >= low && value <= high ? null : invalid(field, `must be between ${low} and ${high}, got ${value}`)
  // Executors compute with 32-bit floats: a value must be in range as it is written and as they see it.
  const above = (field: string, value: number, low: number, high: number) =>
    value > low && Math.fround(value) > low && value <= high
      ? null
      : invalid(field, `must be above ${low}, as a 32-bit float too, and at most ${high}, got ${value}`)
  const whole = (field: string, value: number, low: number, high: number) =>
    Number.isInteger(value) ? range(field, value, low, high) : invalid(field, `must be an integer, got ${value}`)
  const token = (field: string, id: number) =>
    Number.isInteger(id) && id >= 0 && id < vocabSize
      ? null
      : invalid(field, `${id} is not a token of this model; there are ${vocabSize}`)
  const tokens = (field: string, ids: ArrayLike<number>) => {
    for (let i = 0; i < ids.length; i++) {
      const fault = token(field, ids[i]!)
      if (fault !== null) return fault
    }
    return null
  }
  // Executors hold as many as the vocabulary has.
  const distinct = (field: string, ids: ReadonlyArray<number>) =>
    tokens(field, ids) ?? (new Set(ids).size === ids.length ? null : invalid(field, "names a token twice"))
  const biases = () => {
    if (new Set(sampling.logitBias.map(([id]) => id)).size < sampling.logitBias.length) {
      return invalid("logit_bias", "names a token twice")
    }
    for (const [id, bias] of sampling.logitBias) {
      const fault = token("logit_bias", id) ?? range("logit_bias", bias, -largest, largest)
      if (fault !== null) return fault
    }
    return null
  }

  return (
    (prompt.length === 0 ? invalid("prompt", "has no tokens") : tokens("prompt", prompt)) ??
    whole("n", answers, 1, mostAnswers) ??
    (maxTokens === undefined ? null : whole("max_tokens", maxTokens, 1, largestInteger)) ??
    range("temperature", sampling.temperature, 0, largest) ??
    whole("top_k", sampling.topK, 0, largestInteger) ??
    above("top_p", sampling.topP, 0, 1) ??
    range("min_p", sampling.minP, 0, 1) ??
    range("frequency_penalty", sampling.frequencyPenalty, -largest, largest) ??
    range("presence_penalty", sampling.presencePenalty, -largest, largest) ??
    above("repetition_penalty", sampling.repetitionPenalty, 0, largest) ??
    (sampling.seed >= 0n && sampling.seed < 1n << 64n ? null : invalid("seed", "must be an unsigned 64-bit integer")) ??
    distinct("stop_token_ids", sampling.stopTokenIds) ??
    whole("min_tokens", sampling.minTokens, 0, largestInteger) ??
    biases() ??
    (sampling.allowedTokenIds === null
      ? null
      : sampling.allowedTokenIds.length === 0
        ? invalid("allowed_token_ids", "allows no token")
        : distinct("allowed_token_ids", sampling.allowedTokenIds)) ??
    whole("logprobs", sampling.logprobs, -1, Math.min(vocabSize, mostLogprobs)) ??
    whole("prompt_logprobs", promptLogprobs, -1, Math.min(vocabSize, mostLogprobs)) ??
    (stop.every((text) => text !== "" && text.isWellFormed())
      ? null
      : invalid("stop", "holds an empty string or half a surrogate pair")) ??
    (minP === undefined ? null : range("uniprefill.p", minP, 0, 1)) ??
    (p.length === dropLayers.length && p.every((share) => share >= 0 && share <= 1)
      ? null
      : invalid("p", `must be one share for each of the ${dropLayers.length} drop layers, got ${p.join(", ")}`)) ??
    whole("priority", priority, Number.MIN_SAFE_INTEGER, Number.MAX_SAFE_INTEGER) ??
    (firstTokenWithinMicros === undefined ||
    (Number.isSafeInteger(firstTokenWithinMicros) && firstTokenWithinMicros > 0)
      ? null
      : invalid("ttft_slo_ms", `must be a whole number of µs above 0, got ${firstTokenWithinMicros} µs`)) ??
    (tenant.length <= longestTenant
      ? null
      : invalid("tenant", `must have at most ${longestTenant} characters, got ${tenant.length}`))
  )
}

/** Parameters of this size and above have no use and overflow the executor's 32-bit floats. */
const largest = 1e30

/** Executors count with 32-bit integers. */
const largestInteger = 0x7fff_ffff

/** Alternatives that any executor reports. */
const mostLogprobs = 1024

/** Tenants are remembered after their requests have ended. */
const longestTenant = 256
