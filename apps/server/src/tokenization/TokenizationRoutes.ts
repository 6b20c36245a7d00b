import {
  decodeDetokenizeRequest,
  decodeTokenizeRequest,
  type DetokenizeResponse,
  type TokenizeResponse,
} from "@uniprefill/openai/Tokenization"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { HttpServerResponse } from "effect/http"
import { apiError, fromInvalidRequest, fromTokenizerError } from "../http/ApiError.ts"
import { checkModel } from "../completions/CompletionPlan.ts"
import { readJsonBody } from "../http/RequestBody.ts"
import { ServedModel } from "../model/ServedModel.ts"
import type { ServerLimits } from "../http/ServerLimits.ts"
import { UnknownFields } from "../http/UnknownFields.ts"

export const tokenizeRoute = Effect.fnUntraced(function* (limits: ServerLimits) {
  const served = yield* ServedModel
  const tokenizer = yield* Tokenizer
  const seen = yield* UnknownFields
  const body = yield* readJsonBody(limits)
  const { value: request, unknownFields } = yield* Effect.fromResult(decodeTokenizeRequest(body)).pipe(
    Effect.mapError(fromInvalidRequest),
  )
  yield* seen.report(unknownFields)
  yield* checkModel(request.model, served)
  const addSpecialTokens = request.add_special_tokens ?? true
  const tokens = yield* tokenizer.encode(request.prompt, { addSpecialTokens }).pipe(Effect.mapError(fromTokenizerError))
  const response: TokenizeResponse = {
    count: tokens.length,
    max_model_len: served.maxModelLen,
    tokens: [...tokens],
    token_strs: request.return_token_strs === true ? Array.from(tokens, (token) => tokenizer.tokenText(token)) : null,
  }
  return HttpServerResponse.jsonUnsafe(response)
})

export const detokenizeRoute = Effect.fnUntraced(function* (limits: ServerLimits) {
  const served = yield* ServedModel
  const tokenizer = yield* Tokenizer
  const seen = yield* UnknownFields
  const body = yield* readJsonBody(limits)
  const { value: request, unknownFields } = yield* Effect.fromResult(decodeDetokenizeRequest(body)).pipe(
    Effect.mapError(fromInvalidRequest),
  )
  yield* seen.report(unknownFields)
  yield* checkModel(request.model, served)
  const outside = request.tokens.findIndex((token) => token >= served.vocabSize)
  if (outside >= 0) {
    const id = request.tokens[outside]
    const message = `tokens[${outside}]: token id ${id} is outside the vocabulary of ${served.vocabSize} tokens`
    return yield* apiError(400, message, `tokens[${outside}]`)
  }
  const response: DetokenizeResponse = { prompt: tokenizer.decode(request.tokens, { skipSpecialTokens: false }) }
  return HttpServerResponse.jsonUnsafe(response)
})
