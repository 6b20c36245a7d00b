import {
  decodeDetokenizeRequest,
  decodeTokenizeRequest,
  type DetokenizeResponse,
  type TokenizeResponse,
} from "@uniprefill/openai/Tokenization"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { checkModel } from "../answers/AnswerPlan.ts"
import { slicedJson } from "../answers/SlicedJson.ts"
import { inSlices } from "../answers/Slices.ts"
import { readRequest } from "../body/readRequest.ts"
import { renderMessages } from "../chat/ChatPrompt.ts"
import { apiError, fromTokenizerError } from "../http/ApiError.ts"
import { Tenant } from "../http/Tenant.ts"
import { ServedModel } from "../model/ServedModel.ts"

/** `POST /tokenize` */
export const tokenizeRoute = Effect.gen(function* () {
  const served = yield* ServedModel
  const tokenizer = yield* Tokenizer
  const caller = yield* Tenant
  const request = yield* readRequest(decodeTokenizeRequest)
  yield* checkModel(request.model, served)
  const isChat = "messages" in request
  const text = isChat ? yield* renderMessages(request) : request.prompt
  const addSpecialTokens = request.add_special_tokens ?? !isChat
  const tokens = yield* tokenizer
    .encode(text, { addSpecialTokens, caller })
    .pipe(Effect.mapError((error) => fromTokenizerError(error, isChat ? "messages" : "prompt")))
  const strings: Array<string> = []
  if (request.return_token_strs === true) {
    yield* inSlices(tokens, (part) => {
      for (const token of part) strings.push(tokenizer.tokenText(token))
    })
  }
  return yield* slicedJson({
    count: tokens.length,
    max_model_len: served.maxModelLen,
    tokens: tokens.length > 2048 ? tokens : [...tokens],
    token_strs: request.return_token_strs === true ? strings : null,
  } satisfies TokenizeResponse)
})

/** `POST /detokenize` */
export const detokenizeRoute = Effect.gen(function* () {
  const served = yield* ServedModel
  const tokenizer = yield* Tokenizer
  const request = yield* readRequest(decodeDetokenizeRequest)
  yield* checkModel(request.model, served)
  const outside = request.tokens.findIndex((token) => token >= served.vocabSize)
  if (outside >= 0) {
    const id = request.tokens[outside]
    const message = `tokens[${outside}]: token id ${id} is outside the vocabulary of ${served.vocabSize} tokens`
    return yield* apiError(400, message, `tokens[${outside}]`)
  }
  const detokenizer = tokenizer.detokenizer({ skipSpecialTokens: false })
  const pieces: Array<string> = []
  yield* inSlices(request.tokens, (part) => {
    let text = ""
    for (const token of part) text += detokenizer.push(token)
    pieces.push(text)
  })
  pieces.push(detokenizer.flush())
  return yield* slicedJson({ prompt: pieces.join("") } satisfies DetokenizeResponse)
})
