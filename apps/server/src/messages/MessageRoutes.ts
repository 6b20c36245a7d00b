import { decodeMessagesRequest, messagesOf } from "@uniprefill/openai/MessagesRequest"
import { Effect } from "effect"
import { checkModel, planAnswers } from "../answers/AnswerPlan.ts"
import { respond } from "../answers/AnswerResponse.ts"
import { readRequest } from "../body/readRequest.ts"
import { chatPrompt } from "../chat/ChatPrompt.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { messageFormat } from "./MessageAnswer.ts"

/** `POST /v1/messages`: text in, text out. An answer goes on with a last message of the assistant's. */
export const messagesRoute = Effect.gen(function* () {
  const request = yield* readRequest(decodeMessagesRequest)
  const model = yield* checkModel(request.model, yield* ServedModel)
  const messages = messagesOf(request)
  const continues = messages.at(-1)?.role === "assistant"
  const prompt = yield* chatPrompt(
    { messages, add_generation_prompt: !continues, continue_final_message: continues },
    request.max_tokens,
  )
  const plan = yield* planAnswers(
    "msg_",
    model,
    {
      ...request,
      stop: request.stop_sequences ?? null,
      maxTokens: request.max_tokens,
      logprobsAsked: -1,
      promptLogprobs: -1,
    },
    [{ tokens: prompt.tokens, echoed: "" }],
  )
  return yield* respond(plan, messageFormat(plan, prompt.reasoning), request.stream === true)
})
