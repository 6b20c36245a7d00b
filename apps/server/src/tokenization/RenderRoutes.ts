import { decodeChatRequest, maxTokensOf } from "@uniprefill/openai/ChatRequest"
import { decodeCompletionRequest } from "@uniprefill/openai/CompletionRequest"
import { promptsOf } from "@uniprefill/openai/Prompt"
import { Effect } from "effect"
import { checkModel } from "../answers/AnswerPlan.ts"
import { slicedJson } from "../answers/SlicedJson.ts"
import { readRequest } from "../body/readRequest.ts"
import { chatPrompt } from "../chat/ChatPrompt.ts"
import { completionPrompts } from "../completions/CompletionPlan.ts"
import { ServedModel } from "../model/ServedModel.ts"

/** A prompt as the engine would get it. */
const rendered = (tokens: Int32Array, text: string | null) => ({
  prompt_token_ids: tokens.length > 2048 ? tokens : [...tokens],
  ...(text === null ? {} : { prompt: text }),
})

/** `POST /v1/completions/render`: the exact tokens of each prompt, for a gateway that knows which are cached where. */
export const renderCompletionRoute = Effect.gen(function* () {
  const request = yield* readRequest(decodeCompletionRequest)
  yield* checkModel(request.model, yield* ServedModel)
  const prompts = yield* completionPrompts(request)
  const texts = promptsOf(request.prompt)
  return yield* slicedJson(
    prompts.map(({ tokens }, p) => {
      const text = texts[p]
      return rendered(tokens, typeof text === "string" ? text : null)
    }),
  )
})

/** `POST /v1/chat/completions/render`: the conversation, and the exact tokens of its prompt. */
export const renderChatRoute = Effect.gen(function* () {
  const request = yield* readRequest(decodeChatRequest)
  yield* checkModel(request.model, yield* ServedModel)
  const { tokens, text } = yield* chatPrompt(request, maxTokensOf(request))
  return yield* slicedJson([request.messages, [rendered(tokens, text)]])
})
