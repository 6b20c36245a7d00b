import { Schema } from "effect"

export const Usage = Schema.Struct({
  prompt_tokens: Schema.Int,
  completion_tokens: Schema.Int,
  total_tokens: Schema.Int,
  prompt_tokens_details: Schema.Struct({ cached_tokens: Schema.Int }),
})
export type Usage = typeof Usage.Type

export const FinishReason = Schema.Literals(["stop", "length", "abort"])
export type FinishReason = typeof FinishReason.Type

/** Lists of equal length, one entry per token: those of the prompt, where it is echoed, and those of the output. */
export const CompletionLogprobs = Schema.Struct({
  tokens: Schema.Array(Schema.String),
  /** Null for the first token of a prompt that is echoed: nothing comes before it. */
  token_logprobs: Schema.Array(Schema.NullOr(Schema.Finite)),
  top_logprobs: Schema.Array(Schema.NullOr(Schema.Record(Schema.String, Schema.Finite))),
  /** Where the token begins in the choice's text, in UTF-16 units. */
  text_offset: Schema.Array(Schema.Int),
})
export type CompletionLogprobs = typeof CompletionLogprobs.Type

export const DropReport = Schema.Struct({
  /** Rows kept in each segment as a share of the prompt: 1 first, then one ratio per selection. Where it is asked for. */
  kept: Schema.optionalKey(Schema.Array(Schema.Finite)),
  /** The p that the server chose in place of the schedule's, so that first tokens come in time. Whenever it did. */
  lowered_p: Schema.optionalKey(Schema.Finite),
})
export type DropReport = typeof DropReport.Type

const choiceFields = {
  index: Schema.Int,
  text: Schema.String,
  logprobs: Schema.NullOr(CompletionLogprobs),
  /** The stop string or stop token id that ended the answer. */
  stop_reason: Schema.NullOr(Schema.Union([Schema.String, Schema.Int])),
}

const headFields = {
  id: Schema.String,
  object: Schema.Literal("text_completion"),
  /** Seconds since 1970. */
  created: Schema.Int,
  model: Schema.String,
}

/** The answer to a completion request that does not stream. */
export const Completion = Schema.Struct({
  ...headFields,
  choices: Schema.Array(Schema.Struct({ ...choiceFields, finish_reason: FinishReason })),
  usage: Usage,
  uniprefill: Schema.optionalKey(DropReport),
})
export type Completion = typeof Completion.Type

/** One event of a streamed completion. With `include_usage` the last has no choices and the usage. */
export const CompletionChunk = Schema.Struct({
  ...headFields,
  choices: Schema.Array(Schema.Struct({ ...choiceFields, finish_reason: Schema.NullOr(FinishReason) })),
  usage: Schema.optionalKey(Schema.NullOr(Usage)),
  uniprefill: Schema.optionalKey(DropReport),
})
export type CompletionChunk = typeof CompletionChunk.Type

export const usageOf = (promptTokens: number, completionTokens: number, cachedTokens: number): Usage => ({
  prompt_tokens: promptTokens,
  completion_tokens: completionTokens,
  total_tokens: promptTokens + completionTokens,
  prompt_tokens_details: { cached_tokens: cachedTokens },
})
