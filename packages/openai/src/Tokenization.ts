import { Schema } from "effect"
import { optional, stringUpTo, tokenIds } from "./Field.ts"
import { decodeRequest } from "./InvalidRequest.ts"
import { requestLimits } from "./Limits.ts"

const model = optional(stringUpTo(requestLimits.modelLength))

/** `POST /tokenize` */
export const TokenizeRequest = Schema.Struct({
  model,
  prompt: Schema.String,
  add_special_tokens: optional(Schema.Boolean),
  return_token_strs: optional(Schema.Boolean),
})
export type TokenizeRequest = typeof TokenizeRequest.Type

export const TokenizeResponse = Schema.Struct({
  count: Schema.Int,
  max_model_len: Schema.Int,
  tokens: tokenIds(Number.MAX_SAFE_INTEGER),
  token_strs: Schema.NullOr(Schema.Array(Schema.String)),
})
export type TokenizeResponse = typeof TokenizeResponse.Type

/** `POST /detokenize` */
export const DetokenizeRequest = Schema.Struct({ model, tokens: tokenIds(requestLimits.detokenizedTokens) })
export type DetokenizeRequest = typeof DetokenizeRequest.Type

export const DetokenizeResponse = Schema.Struct({ prompt: Schema.String })
export type DetokenizeResponse = typeof DetokenizeResponse.Type

export const decodeTokenizeRequest = decodeRequest(TokenizeRequest)
export const decodeDetokenizeRequest = decodeRequest(DetokenizeRequest)
