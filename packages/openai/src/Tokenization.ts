import { Result, Schema } from "effect"
import { normalMessages } from "./ChatMessages.ts"
import { checkTemplateFields, templateFields } from "./ChatRequest.ts"
import { optional, stringUpTo, tokenIds } from "./Field.ts"
import { type Decoded, decodeRequest, InvalidRequest } from "./InvalidRequest.ts"
import { requestLimits } from "./Limits.ts"
import { findUnsupported } from "./Unsupported.ts"

const fields = {
  model: optional(stringUpTo(requestLimits.modelLength)),
  return_token_strs: optional(Schema.Boolean),
}

/** `POST /tokenize` with a text. */
export const TokenizeTextRequest = Schema.Struct({
  ...fields,
  prompt: stringUpTo(requestLimits.tokenizedCharacters),
  add_special_tokens: optional(Schema.Boolean),
})
export type TokenizeTextRequest = typeof TokenizeTextRequest.Type

/** `POST /tokenize` with messages, as a chat completion would have them. */
export const TokenizeChatRequest = Schema.Struct({ ...fields, ...templateFields })
export type TokenizeChatRequest = typeof TokenizeChatRequest.Type

export type TokenizeRequest = TokenizeTextRequest | TokenizeChatRequest

const decodeText = decodeRequest(TokenizeTextRequest)
const decodeChat = decodeRequest(TokenizeChatRequest)

export const decodeTokenizeRequest = (body: unknown): Result.Result<Decoded<TokenizeRequest>, InvalidRequest> => {
  const isChat = typeof body === "object" && body !== null && "messages" in body
  if (!isChat) return decodeText(body)
  const decoded = decodeChat(body)
  if (Result.isFailure(decoded)) return decoded
  if ("prompt" in body) {
    return Result.fail(new InvalidRequest({ param: "prompt", message: "give either a prompt or messages" }))
  }
  const { value, unknownFields } = decoded.success
  const refused = findUnsupported(body) ?? checkTemplateFields(value)
  if (refused !== undefined) return Result.fail(refused)
  return Result.succeed({ value: { ...value, messages: normalMessages(value.messages) }, unknownFields })
}

export const TokenizeResponse = Schema.Struct({
  count: Schema.Int,
  max_model_len: Schema.Int,
  tokens: tokenIds(Number.MAX_SAFE_INTEGER),
  token_strs: Schema.NullOr(Schema.Array(Schema.String)),
})
export type TokenizeResponse = typeof TokenizeResponse.Type

/** `POST /detokenize` */
export const DetokenizeRequest = Schema.Struct({
  model: fields.model,
  tokens: tokenIds(requestLimits.detokenizedTokens),
})
export type DetokenizeRequest = typeof DetokenizeRequest.Type

export const DetokenizeResponse = Schema.Struct({ prompt: Schema.String })
export type DetokenizeResponse = typeof DetokenizeResponse.Type

export const decodeDetokenizeRequest = decodeRequest(DetokenizeRequest)
