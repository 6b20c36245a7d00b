import { Result, Schema } from "effect"
import { intBetween, optional } from "./Field.ts"
import { type Decoded, decodeRequest, InvalidRequest } from "./InvalidRequest.ts"
import { requestLimits } from "./Limits.ts"
import { Prompt, promptsOf } from "./Prompt.ts"
import { samplingFields } from "./SamplingFields.ts"
import { findUnsupported, isWorthALine } from "./Unsupported.ts"

/** Output tokens when a completion request names no number. */
export const defaultMaxTokens = 16

/** `POST /v1/completions`. Null and absent mean the same for every field but `prompt`. */
export const CompletionRequest = Schema.Struct({
  ...samplingFields,
  prompt: Prompt,
  /** 0 asks for the prompt alone, for its length or its log-probabilities. */
  max_tokens: optional(intBetween(0, 0x7fff_ffff)),
  logprobs: optional(intBetween(0, requestLimits.logprobs)),
  echo: optional(Schema.Boolean),
  add_special_tokens: optional(Schema.Boolean),
  best_of: optional(intBetween(1, requestLimits.n)),
})
export type CompletionRequest = typeof CompletionRequest.Type

const decode = decodeRequest(CompletionRequest, "prompt")

const refuse = (param: string, message: string) => Result.fail(new InvalidRequest({ param, message }))

/** Decodes the parsed body of `POST /v1/completions`, with the rules that span fields. */
export const decodeCompletionRequest = (body: unknown): Result.Result<Decoded<CompletionRequest>, InvalidRequest> => {
  const decoded = decode(body)
  if (Result.isFailure(decoded)) return decoded
  const unsupported = findUnsupported(body as object)
  if (unsupported !== undefined) return Result.fail(unsupported)

  const request = decoded.success.value
  const n = request.n ?? 1
  const prompts = promptsOf(request.prompt).length
  if (prompts === 0) return refuse("prompt", "prompt is an empty list")
  if (prompts * n > requestLimits.choices) {
    return refuse("n", `${prompts} prompts × n = ${n} exceeds ${requestLimits.choices} answers in one request`)
  }
  if (request.echo === true && typeof request.logprobs === "number" && n > 1) {
    return refuse("n", `echo with logprobs takes one answer, got n = ${n}`)
  }
  if (request.best_of !== undefined && request.best_of !== null && request.best_of !== n) {
    return refuse("best_of", `best_of = ${request.best_of} is not supported: leave it out or give n = ${n}`)
  }
  if (request.stream_options && request.stream !== true) {
    return refuse("stream_options", "stream_options is only allowed when stream is true")
  }
  if (request.uniprefill?.report === true && prompts > 1) {
    return refuse("uniprefill.report", `uniprefill.report takes a single prompt, got ${prompts}`)
  }
  const maxTokens = request.max_tokens ?? defaultMaxTokens
  if ((request.min_tokens ?? 0) > maxTokens) {
    return refuse("min_tokens", `min_tokens = ${request.min_tokens} exceeds max_tokens = ${maxTokens}`)
  }
  const unknownFields = decoded.success.unknownFields.filter(isWorthALine)
  return Result.succeed({ value: request, unknownFields })
}
