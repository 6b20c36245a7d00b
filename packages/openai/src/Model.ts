import { Schema } from "effect"

/** A model of `GET /v1/models`. */
export const Model = Schema.Struct({
  id: Schema.String,
  object: Schema.Literal("model"),
  /** Seconds since 1970. */
  created: Schema.Int,
  owned_by: Schema.String,
  /** Where the weights came from; benchmark clients find the tokenizer by it. */
  root: Schema.String,
  parent: Schema.Null,
  /** Longest prompt + output, in tokens. */
  max_model_len: Schema.Int,
  permission: Schema.Array(Schema.Unknown),
})
export type Model = typeof Model.Type

export const ModelList = Schema.Struct({ object: Schema.Literal("list"), data: Schema.Array(Model) })
export type ModelList = typeof ModelList.Type
