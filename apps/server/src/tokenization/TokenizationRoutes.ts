import {
  decodeDetokenizeRequest,
  decodeTokenizeRequest,
  type DetokenizeResponse,
  type TokenizeResponse,
} from "@uniprefill/openai/Tokenization"
import type { TokenIds } from "@uniprefill/openai/Field"
import { requestLimits } from "@uniprefill/openai/Limits"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { checkModel } from "../answers/AnswerPlan.ts"
import { slicedJson } from "../answers/SlicedJson.ts"
import { inSlices } from "../answers/Slices.ts"
import type { LongestText } from "../answers/TextExcess.ts"
import { readRequest } from "../body/readRequest.ts"
import { renderMessages } from "../chat/ChatPrompt.ts"
import { apiError, fromTokenizerError } from "../http/ApiError.ts"
import { Tenant } from "../http/Tenant.ts"
import { ServedModel } from "../model/ServedModel.ts"

/** More than a model takes, so that its users can learn by how much their texts are too long. */
const longestTokenized: LongestText = { _tag: "Characters", characters: requestLimits.tokenizedCharacters }

/** `POST /tokenize` */
export const tokenizeRoute = Effect.gen(function* () {
  const served = yield* ServedModel
  const tokenizer = yield* Tokenizer
  const caller = yield* Tenant
  const request = yield* readRequest(decodeTokenizeRequest, longestTokenized)
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

/** Index, counted from `first`, of the first token that is none of `vocabSize`; −1 where all are. */
const firstAbove = (tokens: TokenIds, vocabSize: number, first: number): number => {
  for (let i = 0; i < tokens.length; i++) if (tokens[i]! >= vocabSize) return first + i
  return -1
}

/** `POST /detokenize` */
export const detokenizeRoute = Effect.gen(function* () {
  const served = yield* ServedModel
  const tokenizer = yield* Tokenizer
  const request = yield* readRequest(decodeDetokenizeRequest)
  yield* checkModel(request.model, served)
  let outside = -1
  let checked = 0
  yield* inSlices(request.tokens, (part) => {
    if (outside < 0) outside = firstAbove(part, served.vocabSize, checked)
    checked += part.length
  })
  if (outside >= 0) {
    const id = request.tokens[outside]
    const message = `tokens[${outside}]: token id ${id} is outside the vocabulary of ${served.vocabSize} tokens`
    return yield* apiError(400, message, `tokens[${outside}]`)
  }
  const detokenizer = tokenizer.detokenizer({ skipSpecialTokens: false })
  const pieces: Array<string> = []
  yield* inSlices(request.tokens, (part) => {
    const texts: Array<string> = []
    for (const token of part) texts.push(detokenizer.push(token))
    // Joined slice by slice: a million pieces at once take long.
    pieces.push(texts.join(""))
  })
  pieces.push(detokenizer.flush())
  return yield* slicedJson({ prompt: pieces.join("") } satisfies DetokenizeResponse)
})
