import { randomUUID } from "node:crypto"
import type { GenerateRequest } from "@uniprefill/engine/Engine"
import { type CompletionRequest, defaultMaxTokens } from "@uniprefill/openai/CompletionRequest"
import { promptsOf } from "@uniprefill/openai/Prompt"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Clock, Effect } from "effect"
import { type ApiError, apiError, fromTokenizerError } from "../http/ApiError.ts"
import { samplingOf } from "./Sampling.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { Tenant } from "../http/Tenant.ts"

/** A completion request as the engine requests that it stands for, checked as far as it can be before any work. */
export interface CompletionPlan {
  readonly id: string
  readonly model: string
  readonly createdSeconds: number
  /** One for each prompt, with n answers each. */
  readonly requests: ReadonlyArray<GenerateRequest>
  /** Tokens of all prompts, each counted once. */
  readonly promptTokens: number
  /** In the order of their index: the n answers of the first prompt, then those of the second … */
  readonly choices: ReadonlyArray<PlannedChoice>
  readonly includeUsage: boolean
  readonly report: boolean
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
}

/** Fails with 404 for another model's name, and with 400. */
export const planCompletion = Effect.fnUntraced(function* (
  request: CompletionRequest,
): Effect.fn.Return<CompletionPlan, ApiError, ServedModel | Tokenizer | Tenant> {
  const served = yield* ServedModel
  const tenant = yield* Tenant
  const tokenizer = yield* Tokenizer
  const model = yield* checkModel(request.model, served)
  const sampling = yield* Effect.fromResult(samplingOf(request, request.logprobs ?? -1, served))
  yield* checkDropping(request, served)

  const n = request.n ?? 1
  const maxTokens = request.max_tokens ?? defaultMaxTokens
  const { ttft_slo_ms: ttftSloMs } = request
  const firstTokenWithinMicros = typeof ttftSloMs === "number" ? Math.round(ttftSloMs * 1000) : undefined
  const id = `cmpl-${request.request_id ?? randomUUID().replaceAll("-", "")}`
  // The client's own id may come twice at the same time; the engine's names must differ.
  const unique = randomUUID()
  const prompts = promptsOf(request.prompt)
  const requests: Array<GenerateRequest> = []
  const choices: Array<PlannedChoice> = []
  let promptTokens = 0
  for (const [p, prompt] of prompts.entries()) {
    const field = prompts.length === 1 ? "prompt" : `prompt[${p}]`
    const tokens = yield* tokensOf(prompt, field, request.add_special_tokens ?? true, served)
    yield* checkLength(tokens.length, maxTokens, field, served)
    promptTokens += tokens.length
    const echoed = () => (typeof prompt === "string" ? prompt : tokenizer.decode(tokens, { skipSpecialTokens: false }))
    const prefix = request.echo === true ? echoed() : ""
    const generate: GenerateRequest = {
      requestId: `${unique}-${p}`,
      prompt: tokens,
      answers: n,
      maxTokens,
      sampling,
      stop: typeof request.stop === "string" ? [request.stop] : (request.stop ?? []),
      includeStop: request.include_stop_str_in_output ?? false,
      skipSpecialTokens: request.skip_special_tokens ?? true,
      drop: request.uniprefill?.enabled ?? true,
      minP: request.uniprefill?.p ?? undefined,
      priority: request.priority ?? 0,
      tenant,
      cacheSalt: request.cache_salt ?? undefined,
      firstTokenWithinMicros,
    }
    requests.push(generate)
    for (let answer = 0; answer < n; answer++)
      choices.push({ index: p * n + answer, request: generate, answer, prefix })
  }
  const asked = new Set(request.stop_token_ids ?? [])
  return {
    id,
    model,
    createdSeconds: Math.floor((yield* Clock.currentTimeMillis) / 1000),
    requests,
    promptTokens,
    choices,
    includeUsage: request.stream_options?.include_usage ?? false,
    report: request.uniprefill?.report ?? false,
    silentStops: new Set(served.eosTokenIds.filter((token) => !asked.has(token))),
  }
})

/** The name to answer with. A request that names no model means the one there is. */
export const checkModel = (
  name: string | null | undefined,
  served: ServedModel["Service"],
): Effect.Effect<string, ApiError> => {
  if (name === null || name === undefined) return Effect.succeed(served.names[0]!)
  if (served.names.includes(name)) return Effect.succeed(name)
  const known = served.names.map((servedName) => `"${servedName}"`).join(", ")
  return Effect.fail(
    apiError(404, `the model "${name.slice(0, 128)}" does not exist; this server has ${known}`, "model"),
  )
}

const checkDropping = ({ uniprefill }: CompletionRequest, { scheduleP }: ServedModel["Service"]) => {
  const p = uniprefill?.p
  if (typeof p !== "number") return Effect.void
  if (uniprefill?.enabled === false) {
    return Effect.fail(apiError(400, "uniprefill.p has no effect with uniprefill.enabled = false", "uniprefill.p"))
  }
  if (scheduleP === null) {
    return Effect.fail(apiError(400, "uniprefill.p has no effect: this model is served dense", "uniprefill.p"))
  }
  if (p >= scheduleP) return Effect.void
  const message = `uniprefill.p may only be raised: the model's schedule has p = ${scheduleP}, got ${p}`
  return Effect.fail(apiError(400, message, "uniprefill.p"))
}

const tokensOf = Effect.fnUntraced(function* (
  prompt: string | ReadonlyArray<number>,
  field: string,
  addSpecialTokens: boolean,
  { vocabSize }: ServedModel["Service"],
) {
  if (typeof prompt === "string") {
    const tokenizer = yield* Tokenizer
    return yield* tokenizer.encode(prompt, { addSpecialTokens }).pipe(Effect.mapError(fromTokenizerError))
  }
  const outside = prompt.findIndex((token) => token >= vocabSize)
  if (outside < 0) return Int32Array.from(prompt)
  const message = `${field}[${outside}]: token id ${prompt[outside]} is outside the vocabulary of ${vocabSize} tokens`
  return yield* apiError(400, message, field)
})

const checkLength = (
  promptTokens: number,
  maxTokens: number,
  field: string,
  { maxModelLen }: ServedModel["Service"],
) => {
  if (promptTokens === 0) return Effect.fail(apiError(400, `${field} has no tokens`, field))
  if (promptTokens + maxTokens <= maxModelLen) return Effect.void
  const message =
    `this model takes at most ${maxModelLen} tokens, but ${field} has ${promptTokens} ` +
    `and max_tokens = ${maxTokens} asks for ${promptTokens + maxTokens} in all`
  return Effect.fail(apiError(400, message, promptTokens >= maxModelLen ? field : "max_tokens"))
}
