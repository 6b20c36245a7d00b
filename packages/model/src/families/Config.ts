import { Schema, SchemaIssue } from "effect"

/** Why a family cannot make a table of a config.json. */
export class ConfigFault extends Error {
  readonly reason: "InvalidField" | "Unsupported"
  /** Path of the field, `rope_scaling.factor`. */
  readonly field: string

  constructor(reason: ConfigFault["reason"], field: string, detail: string) {
    super(detail)
    this.name = "ConfigFault"
    this.reason = reason
    this.field = field
  }
}

export const invalid = (field: string, detail: string): never => {
  throw new ConfigFault("InvalidField", field, detail)
}

export const unsupported = (field: string, detail: string): never => {
  throw new ConfigFault("Unsupported", field, detail)
}

export type JsonObject = Readonly<Record<string, unknown>>

export const Count = Schema.Int.check(Schema.isGreaterThan(0))
export const Positive = Schema.Finite.check(Schema.isGreaterThan(0))
export const TokenIds = Schema.Union([Schema.Int, Schema.Array(Schema.Int)])
export const optional = <S extends Schema.Constraint>(schema: S): Schema.optionalKey<S> => Schema.optionalKey(schema)

/**
 * Fields that change nothing of what a model computes: names, types of weights (each tensor says its own), what training
 * and generation used, and tokens that the tokenizer handles.
 */
const harmless: ReadonlySet<string> = new Set([
  ..."architectures model_type transformers_version _name_or_path name_or_path _commit_hash tokenizer_class".split(" "),
  ..."torch_dtype dtype mamba_ssm_dtype use_cache cache_implementation return_dict return_dict_in_generate".split(" "),
  ..."output_attentions output_hidden_states output_scores output_router_logits router_aux_loss_coef".split(" "),
  ..."attn_implementation _attn_implementation _attn_implementation_autoset experts_implementation".split(" "),
  ..."initializer_range attention_dropout hidden_dropout resid_pdrop embd_pdrop pretraining_tp".split(" "),
  ..."bos_token_id pad_token_id sep_token_id decoder_start_token_id forced_bos_token_id".split(" "),
  ..."forced_eos_token_id eoi_token_index boi_token_index image_token_index image_token_id video_token_id".split(" "),
  ..."vision_start_token_id vision_end_token_id mm_tokens_per_image language_model_only".split(" "),
  ..."id2label label2id num_labels problem_type finetuning_task task_specific_params prefix".split(" "),
  ..."is_encoder_decoder is_decoder cross_attention_hidden_size add_cross_attention tie_encoder_decoder".split(" "),
  ..."chunk_size_feed_forward pruned_heads torchscript use_bfloat16 tf_legacy_loss".split(" "),
  ..."do_sample early_stopping max_length min_length num_beams num_beam_groups num_return_sequences".split(" "),
  ..."temperature top_p top_k typical_p repetition_penalty length_penalty diversity_penalty suppress_tokens".split(" "),
  ..."begin_suppress_tokens bad_words_ids no_repeat_ngram_size encoder_no_repeat_ngram_size".split(" "),
  ..."remove_invalid_values exponential_decay_length_penalty unsloth_fixed unsloth_version".split(" "),
  // Layers that predict further tokens; a runner of the model does without them.
  ..."mtp_num_hidden_layers mtp_use_dedicated_embeddings".split(" "),
])

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

/**
 * Decodes the fields that a family knows. A field that is null counts as absent. One that neither the family nor the list of
 * harmless ones knows is refused, unless it is null or false: it might change the result.
 *
 * Fails with ConfigFault. `at`: where `config` is inside its file, `text_config.` or nothing.
 */
export const decodeFields = <F extends Schema.Struct.Fields>(
  fields: F,
  config: JsonObject,
  family: string,
  at = "",
): Schema.Struct<F>["Type"] => {
  const present = Object.fromEntries(Object.entries(config).filter(([, value]) => (value ?? null) !== null))
  for (const [name, value] of Object.entries(present)) {
    if (name in fields || harmless.has(name) || value === false) continue
    const shown = JSON.stringify(value).slice(0, 80)
    unsupported(`${at}${name}`, `${family} has no such field, and it may change the result; got ${shown}`)
  }
  const known = Object.fromEntries(Object.entries(present).filter(([name]) => name in fields))
  return decode(Schema.Struct(fields), known, at)
}

const decode = <S extends Schema.Struct<Schema.Struct.Fields>>(schema: S, json: JsonObject, at: string): S["Type"] => {
  const result = Schema.decodeUnknownResult(schema as unknown as Schema.ConstraintDecoder<S["Type"]>)(json)
  if (result._tag === "Success") return result.success
  const { message, path = [] } = formatIssue(result.failure.issue).issues[0]!
  const keys = path.map((key) => String(typeof key === "object" ? key.key : key))
  const value = keys.reduce<unknown>((parent, key) => (parent as JsonObject | null)?.[key], json)
  const detail = value === undefined ? message : `${message}, got ${JSON.stringify(value).slice(0, 80)}`
  return invalid(`${at}${keys.join(".")}`, detail)
}

/** The nested object of a config that keeps its language part under a name. Fails with ConfigFault. */
export const nested = (config: JsonObject, name: string, at = ""): JsonObject => {
  const value = config[name]
  if (typeof value === "object" && value !== null && !Array.isArray(value)) return value as JsonObject
  return invalid(
    `${at}${name}`,
    value === undefined ? "missing" : `not an object: ${JSON.stringify(value).slice(0, 80)}`,
  )
}

/** An id, a list of ids or nothing, as a list. */
export const tokenIds = (ids: number | ReadonlyArray<number> | null | undefined): ReadonlyArray<number> =>
  ids === null || ids === undefined ? [] : typeof ids === "number" ? [ids] : ids

/** kvHeads and headDim as attention needs them. Fails with ConfigFault. */
export const headsOf = (
  heads: number,
  kvHeads: number,
  headDim: number | undefined,
  hiddenSize: number,
  at = "",
): { readonly heads: number; readonly kvHeads: number; readonly headDim: number } => {
  const width = headDim ?? hiddenSize / heads
  if (heads % kvHeads !== 0) {
    invalid(`${at}num_key_value_heads`, `${kvHeads} does not divide num_attention_heads ${heads}`)
  }
  if (!Number.isInteger(width)) {
    const numbers = `hidden_size ${hiddenSize} / num_attention_heads ${heads} is ${width}`
    invalid(`${at}head_dim`, `absent, and ${numbers}, not a whole number`)
  }
  if (width % 2 !== 0) invalid(`${at}head_dim`, `${width} is odd; rotary embedding pairs dimensions`)
  return { heads, kvHeads, headDim: width }
}

/** The only value of a field that a family supports, or a ConfigFault. */
export const only = <A extends string | number | boolean>(field: string, given: A | undefined, supported: A): void => {
  if (given !== undefined && given !== supported) {
    unsupported(field, `${JSON.stringify(given)}; supported: ${JSON.stringify(supported)}`)
  }
}

export interface LayerTypes {
  readonly count: number
  readonly listed: ReadonlyArray<string> | undefined
  /** The names that a family knows. */
  readonly known: ReadonlyArray<string>
  /** The type of a layer where `layer_types` is absent. */
  readonly otherwise: (layer: number) => string
}

/** `layer_types`, one for every layer. Fails with ConfigFault. */
export const layerTypes = ({ count, listed, known, otherwise }: LayerTypes, at = ""): ReadonlyArray<string> => {
  if (listed !== undefined && listed.length !== count) {
    invalid(`${at}layer_types`, `lists ${listed.length} layers, num_hidden_layers is ${count}`)
  }
  return Array.from({ length: count }, (_, layer) => {
    const type = listed?.[layer] ?? otherwise(layer)
    if (!known.includes(type)) unsupported(`${at}layer_types.${layer}`, `"${type}"; supported: ${known.join(", ")}`)
    return type
  })
}
