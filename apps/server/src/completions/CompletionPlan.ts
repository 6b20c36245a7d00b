import { type CompletionRequest, defaultMaxTokens } from "@uniprefill/openai/CompletionRequest"
import { promptsOf } from "@uniprefill/openai/Prompt"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { type AnswerPlan, checkModel, type PlannedPrompt, planAnswers } from "../answers/AnswerPlan.ts"
import type { Dropping } from "../answers/Dropping.ts"
import { checkTextLength, promptTokens } from "../answers/PromptTokens.ts"
import { turn } from "../answers/Slices.ts"
import { type ApiError, apiError } from "../http/ApiError.ts"
import type { GatewayHints } from "../http/GatewayHints.ts"
import { Limits } from "../http/ServerLimits.ts"
import type { Tenant } from "../http/Tenant.ts"
import { ServedModel } from "../model/ServedModel.ts"

/** A completion request as a plan. Fails with 404 for another model's name, and with 400. */
export const planCompletion = Effect.fnUntraced(function* (
  request: CompletionRequest,
): Effect.fn.Return<AnswerPlan, ApiError, ServedModel | Tokenizer | Tenant | GatewayHints | Limits | Dropping> {
  const served = yield* ServedModel
  const model = yield* checkModel(request.model, served)
  const prompts = yield* completionPrompts(request)
  const logprobs = request.logprobs ?? -1
  return yield* planAnswers(
    "cmpl-",
    model,
    {
      ...request,
      maxTokens: request.max_tokens ?? defaultMaxTokens,
      logprobsAsked: logprobs,
      promptLogprobs: request.echo === true ? logprobs : -1,
    },
    prompts,
  )
})

/** The prompts of a request as tokens, each checked to fit. */
export const completionPrompts = Effect.fnUntraced(function* (request: CompletionRequest) {
  const tokenizer = yield* Tokenizer
  const maxTokens = request.max_tokens ?? defaultMaxTokens
  const prompts = promptsOf(request.prompt)
  const fieldOf = (p: number) => (prompts.length === 1 ? "prompt" : `prompt[${p}]`)
  // All lengths before any work.
  for (const [p, prompt] of prompts.entries()) {
    if (typeof prompt === "string") yield* checkTextLength(prompt.length, fieldOf(p))
  }
  const planned: Array<PlannedPrompt> = []
  for (const [p, prompt] of prompts.entries()) {
    // A short one is tokenised here, and there may be many.
    if (p > 0) yield* turn
    const tokens = yield* promptTokens(prompt, fieldOf(p), maxTokens, request.add_special_tokens ?? true)
    const echoed = () => (typeof prompt === "string" ? prompt : tokenizer.decode(tokens, { skipSpecialTokens: false }))
    planned.push({ tokens, echoed: request.echo === true ? echoed() : "" })
  }
  yield* checkEcho(planned, request.n ?? 1)
  return planned
})

/** Every answer repeats its prompt. */
const checkEcho = Effect.fnUntraced(function* (prompts: ReadonlyArray<PlannedPrompt>, n: number) {
  const { echoedCharacters } = yield* Limits
  const characters = prompts.reduce((sum, { echoed }) => sum + n * echoed.length, 0)
  if (characters <= echoedCharacters) return
  const message = `echo would repeat ${characters} characters of prompts, the limit is ${echoedCharacters}`
  return yield* apiError(400, message, "echo")
})
