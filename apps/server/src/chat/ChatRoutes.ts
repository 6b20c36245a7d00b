import { decodeChatRequest, maxTokensOf } from "@uniprefill/openai/ChatRequest"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { checkModel, planAnswers } from "../answers/AnswerPlan.ts"
import { respond } from "../answers/AnswerResponse.ts"
import { streamUsageOf } from "../answers/UsageCount.ts"
import { readRequest } from "../body/readRequest.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { chatFormat } from "./ChatAnswer.ts"
import { chatPrompt } from "./ChatPrompt.ts"

/** `POST /v1/chat/completions` */
export const chatRoute = Effect.gen(function* () {
  const request = yield* readRequest(decodeChatRequest)
  const model = yield* checkModel(request.model, yield* ServedModel)
  const maxTokens = maxTokensOf(request)
  const prompt = yield* chatPrompt(request, maxTokens)
  const logprobsAsked = request.logprobs === true ? (request.top_logprobs ?? 0) : -1
  const plan = yield* planAnswers("chatcmpl-", model, { ...request, maxTokens, logprobsAsked, promptLogprobs: -1 }, [
    { tokens: prompt.tokens, echoed: "" },
  ])
  const format = chatFormat(plan, prompt.reasoning, yield* Tokenizer, streamUsageOf(request.stream_options))
  return yield* respond(plan, format, request.stream === true)
})
