import { Schema } from "effect"
import { FinishReason, DropReport, Usage } from "./Completion.ts"

const tokenFields = {
  token: Schema.String,
  logprob: Schema.Finite,
  /** UTF-8; with these a client can put characters together that several tokens make. */
  bytes: Schema.Array(Schema.Int),
}

/** One token of an answer and the most likely ones in its place. */
export const TokenLogprob = Schema.Struct({ ...tokenFields, top_logprobs: Schema.Array(Schema.Struct(tokenFields)) })
export type TokenLogprob = typeof TokenLogprob.Type

export const ChatLogprobs = Schema.Struct({ content: Schema.Array(TokenLogprob), refusal: Schema.Null })
export type ChatLogprobs = typeof ChatLogprobs.Type

const choiceFields = {
  index: Schema.Int,
  logprobs: Schema.NullOr(ChatLogprobs),
  /** The stop string or stop token id that ended the answer. */
  stop_reason: Schema.NullOr(Schema.Union([Schema.String, Schema.Int])),
}

const headFields = { id: Schema.String, created: Schema.Int, model: Schema.String }

export const ChatMessage = Schema.Struct({
  role: Schema.Literal("assistant"),
  content: Schema.NullOr(Schema.String),
  refusal: Schema.Null,
  /** What the model thought before it answered, where its template marks thoughts. */
  reasoning_content: Schema.optionalKey(Schema.String),
})
export type ChatMessage = typeof ChatMessage.Type

export const ChatCompletion = Schema.Struct({
  ...headFields,
  object: Schema.Literal("chat.completion"),
  choices: Schema.Array(Schema.Struct({ ...choiceFields, message: ChatMessage, finish_reason: FinishReason })),
  usage: Usage,
  uniprefill: Schema.optionalKey(DropReport),
})
export type ChatCompletion = typeof ChatCompletion.Type

export const ChatDelta = Schema.Struct({
  role: Schema.optionalKey(Schema.Literal("assistant")),
  content: Schema.optionalKey(Schema.String),
  reasoning_content: Schema.optionalKey(Schema.String),
})
export type ChatDelta = typeof ChatDelta.Type

/** One event of a streamed chat completion. With `include_usage` the last has no choices and the usage. */
export const ChatCompletionChunk = Schema.Struct({
  ...headFields,
  object: Schema.Literal("chat.completion.chunk"),
  choices: Schema.Array(
    Schema.Struct({ ...choiceFields, delta: ChatDelta, finish_reason: Schema.NullOr(FinishReason) }),
  ),
  usage: Schema.optionalKey(Schema.NullOr(Usage)),
  uniprefill: Schema.optionalKey(DropReport),
})
export type ChatCompletionChunk = typeof ChatCompletionChunk.Type
