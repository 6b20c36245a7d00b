import { randomFillSync } from "node:crypto"
import type { SamplingParameters } from "@uniprefill/executor/contract/Executor"
import type { TokenIds } from "@uniprefill/openai/Field"
import type { SamplingFields } from "@uniprefill/openai/SamplingFields"
import { Result } from "effect"
import { type ApiError, apiError } from "../http/ApiError.ts"
import type { ServedModel } from "../model/ServedModel.ts"

/** The fields of a request that decide how tokens are drawn; completions and chat completions have them all. */
export type SamplingRequest = SamplingFields

/**
 * Sampling parameters of a request: its own fields, else the model's generation_config.json, else OpenAI's defaults.
 * The seed is that of the first answer. `logprobs` is −1 or how many to report.
 *
 * Fails with 400 where a token id is outside the vocabulary.
 */
export const samplingOf = (
  request: SamplingRequest,
  logprobs: number,
  served: ServedModel["Service"],
): Result.Result<SamplingParameters, ApiError> => {
  const { generation, eosTokenIds } = served
  const logitBias = Object.entries(request.logit_bias ?? {}).map(([id, bias]) => [Number(id), bias] as const)
  const outside =
    findOutside(served.vocabSize, "stop_token_ids", request.stop_token_ids) ??
    findOutside(served.vocabSize, "allowed_token_ids", request.allowed_token_ids) ??
    findOutside(
      served.vocabSize,
      "logit_bias",
      logitBias.map(([id]) => id),
    )
  if (outside !== undefined) return Result.fail(outside)
  if (request.allowed_token_ids?.length === 0) {
    return Result.fail(
      apiError(400, "allowed_token_ids is an empty list: no token could be sampled", "allowed_token_ids"),
    )
  }
  return Result.succeed({
    temperature: greedyBelow(request.temperature ?? generation.temperature ?? 1),
    topK: Math.max(0, request.top_k ?? generation.topK ?? 0),
    topP: request.top_p ?? generation.topP ?? 1,
    minP: request.min_p ?? generation.minP ?? 0,
    frequencyPenalty: request.frequency_penalty ?? 0,
    presencePenalty: request.presence_penalty ?? 0,
    repetitionPenalty: request.repetition_penalty ?? generation.repetitionPenalty ?? 1,
    seed: seedOf(request.seed),
    stopTokenIds: [
      ...new Set([...(request.ignore_eos === true ? [] : eosTokenIds), ...(request.stop_token_ids ?? [])]),
    ],
    minTokens: request.min_tokens ?? 0,
    logitBias,
    allowedTokenIds: request.allowed_token_ids ? [...new Set(request.allowed_token_ids)] : null,
    logprobs,
  })
}

/** Colder than this is greedy: scores divided by it overflow a 32-bit float. */
const coldest = 1e-5

const greedyBelow = (temperature: number): number => (temperature < coldest ? 0 : temperature)

const seedOf = (seed: number | bigint | null | undefined): bigint =>
  seed !== null && seed !== undefined ? BigInt.asUintN(64, BigInt(seed)) : freshSeed()

/** Random seeds for the requests to come: many at once cost as much as one. */
const fresh = new BigUint64Array(128)
let used = fresh.length

const freshSeed = (): bigint => {
  if (used === fresh.length) {
    randomFillSync(fresh)
    used = 0
  }
  return fresh[used++]!
}

const findOutside = (vocabSize: number, field: string, ids: TokenIds | null | undefined) => {
  const id = ids?.find((candidate) => candidate >= vocabSize)
  if (id === undefined) return undefined
  return apiError(400, `${field}: token id ${id} is outside the vocabulary of ${vocabSize} tokens`, field)
}
