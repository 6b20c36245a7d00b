import { Result, Schema } from "effect"
import { ChatMessages, normalMessages } from "./ChatMessages.ts"
import { intBetween, optional } from "./Field.ts"
import { type Decoded, decodeRequest, InvalidRequest } from "./InvalidRequest.ts"
import { requestLimits } from "./Limits.ts"
import { samplingFields } from "./SamplingFields.ts"
import { Documents, TemplateVariables } from "./TemplateVariables.ts"
import { findUnsupported, isWorthALine } from "./Unsupported.ts"

/** Fields that say how messages become a prompt; `/tokenize` has them too. */
export const templateFields = {
  messages: ChatMessages,
  /** Ends the prompt with the opening of an answer; true. */
  add_generation_prompt: optional(Schema.Boolean),
  /** Leaves the last message open, for the answer to go on with it. */
  continue_final_message: optional(Schema.Boolean),
  /** Whether the template's text gets the tokenizer's own first tokens; false: templates write them. */
  add_special_tokens: optional(Schema.Boolean),
  /** More variables of the template. */
  chat_template_kwargs: optional(TemplateVariables),
  documents: optional(Documents),
  reasoning_effort: optional(Schema.Literals(["none", "minimal", "low", "medium", "high", "xhigh"])),
}

/** `POST /v1/chat/completions`. Null and absent mean the same for every field but `messages`. */
export const ChatRequest = Schema.Struct({
  ...samplingFields,
  ...templateFields,
  max_tokens: optional(intBetween(0, 0x7fff_ffff)),
  /** Goes before `max_tokens`; without both an answer may be as long as fits. */
  max_completion_tokens: optional(intBetween(0, 0x7fff_ffff)),
  logprobs: optional(Schema.Boolean),
  top_logprobs: optional(intBetween(0, requestLimits.logprobs)),
})
export type ChatRequest = typeof ChatRequest.Type

const decode = decodeRequest(ChatRequest, "messages")

const refuse = (param: string, message: string) => Result.fail(new InvalidRequest({ param, message }))

/** Rules of {@link templateFields} that span fields. */
export const checkTemplateFields = (request: {
  readonly add_generation_prompt?: boolean | null
  readonly continue_final_message?: boolean | null
}): InvalidRequest | undefined => {
  if (request.continue_final_message !== true || request.add_generation_prompt === false) return undefined
  const message =
    "continue_final_message and add_generation_prompt exclude each other: set add_generation_prompt to false"
  return new InvalidRequest({ param: "continue_final_message", message })
}

/** Output tokens at most; undefined for as many as fit. */
export const maxTokensOf = (request: ChatRequest): number | undefined =>
  request.max_completion_tokens ?? request.max_tokens ?? undefined

/** Decodes the parsed body of `POST /v1/chat/completions`, with the rules that span fields. */
export const decodeChatRequest = (body: unknown): Result.Result<Decoded<ChatRequest>, InvalidRequest> => {
  const decoded = decode(body)
  if (Result.isFailure(decoded)) return decoded
  const unsupported = findUnsupported(body as object) ?? checkTemplateFields(decoded.success.value)
  if (unsupported !== undefined) return Result.fail(unsupported)
  if ((body as { echo?: unknown }).echo === true)
    return refuse("echo", "echo is not supported by this server for chats")

  const request = decoded.success.value
  if (request.stream_options && request.stream !== true) {
    return refuse("stream_options", "stream_options is only allowed when stream is true")
  }
  if ((request.top_logprobs ?? 0) > 0 && request.logprobs !== true) {
    return refuse("top_logprobs", "top_logprobs needs logprobs to be true")
  }
  const maxTokens = maxTokensOf(request)
  if (maxTokens !== undefined && (request.min_tokens ?? 0) > maxTokens) {
    return refuse("min_tokens", `min_tokens = ${request.min_tokens} exceeds max_tokens = ${maxTokens}`)
  }
  return Result.succeed({
    value: { ...request, messages: normalMessages(request.messages) },
    unknownFields: decoded.success.unknownFields.filter(isWorthALine),
  })
}
