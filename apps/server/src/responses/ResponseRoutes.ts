import { decodeResponsesRequest, messagesOfResponse } from "@uniprefill/openai/ResponsesRequest"
import { Effect } from "effect"
import { checkModel, planAnswers } from "../answers/AnswerPlan.ts"
import { respond } from "../answers/AnswerResponse.ts"
import { readRequest } from "../body/readRequest.ts"
import { chatPrompt } from "../chat/ChatPrompt.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { responseFormat } from "./ResponseAnswer.ts"

/** `POST /v1/responses`: text in, text out. Nothing is stored. */
export const responsesRoute = Effect.gen(function* () {
  const request = yield* readRequest(decodeResponsesRequest)
  const model = yield* checkModel(request.model, yield* ServedModel)
  const maxTokens = request.max_output_tokens ?? undefined
  const effort = request.reasoning?.effort ?? null
  const prompt = yield* chatPrompt({ messages: messagesOfResponse(request), reasoning_effort: effort }, maxTokens)
  const plan = yield* planAnswers("resp_", model, { ...request, maxTokens, logprobsAsked: -1, promptLogprobs: -1 }, [
    { tokens: prompt.tokens, echoed: "" },
  ])
  return yield* respond(plan, responseFormat(plan, request, prompt.reasoning), request.stream === true)
})
