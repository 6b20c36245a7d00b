import { Effect, Schema } from "effect"
import { decodeJson } from "./JsonFile.ts"
import { ModelError } from "./ModelError.ts"
import type { ModelSpec, RopeSpec } from "./ModelSpec.ts"

/** A Hugging Face config.json of the Llama family, as a ModelSpec. */

const Count = Schema.Int.check(Schema.isGreaterThan(0))
const Positive = Schema.Finite.check(Schema.isGreaterThan(0))
const Flag = Schema.NullOr(Schema.Boolean)
const TokenIds = Schema.NullOr(Schema.Union([Schema.Int, Schema.Array(Schema.Int)]))

const RopeFields = Schema.Struct({
  /** `rope_type` since transformers 4.43, `type` before. */
  rope_type: Schema.optionalKey(Schema.String),
  type: Schema.optionalKey(Schema.String),
  rope_theta: Schema.optionalKey(Positive),
  factor: Schema.optionalKey(Positive),
  low_freq_factor: Schema.optionalKey(Positive),
  high_freq_factor: Schema.optionalKey(Positive),
  original_max_position_embeddings: Schema.optionalKey(Count),
  partial_rotary_factor: Schema.optionalKey(Schema.Finite),
})

const LlamaConfig = Schema.Struct({
  hidden_size: Count,
  intermediate_size: Count,
  num_hidden_layers: Count,
  num_attention_heads: Count,
  num_key_value_heads: Schema.optionalKey(Schema.NullOr(Count)),
  head_dim: Schema.optionalKey(Schema.NullOr(Count)),
  vocab_size: Count,
  max_position_embeddings: Count,
  rms_norm_eps: Positive,
  rope_theta: Schema.optionalKey(Positive),
  rope_scaling: Schema.optionalKey(Schema.NullOr(RopeFields)),
  /** transformers 5 keeps theta and scaling here. */
  rope_parameters: Schema.optionalKey(Schema.NullOr(RopeFields)),
  partial_rotary_factor: Schema.optionalKey(Schema.Finite),
  tie_word_embeddings: Schema.optionalKey(Flag),
  attention_bias: Schema.optionalKey(Flag),
  mlp_bias: Schema.optionalKey(Flag),
  hidden_act: Schema.optionalKey(Schema.String),
  eos_token_id: Schema.optionalKey(TokenIds),
})

const Header = Schema.Struct({
  architectures: Schema.Array(Schema.String),
  quantization_config: Schema.optionalKey(Schema.Unknown),
})

/** Architectures that config.json may name. */
export const supportedArchitectures: ReadonlyArray<string> = ["LlamaForCausalLM"]

/**
 * Decodes the value of a config.json; `file` is the name used in errors.
 *
 * Fails with `InvalidField` where a field is missing, has the wrong type or contradicts another, and with `Unsupported`
 * where the model asks for something that no runner here has.
 */
export const decodeModelConfig = Effect.fnUntraced(function* (file: string, json: unknown) {
  const fail = (reason: ModelError["reason"], field: string, detail: string) =>
    Effect.fail(new ModelError({ reason, file, field, detail }))

  const { architectures, quantization_config } = yield* decodeJson(Header, file, json)
  const architecture = architectures.find((name) => supportedArchitectures.includes(name))
  if (architecture === undefined) {
    const named = architectures.join(", ") || "nothing"
    return yield* fail(
      "Unsupported",
      "architectures",
      `names ${named}; supported: ${supportedArchitectures.join(", ")}`,
    )
  }
  if (quantization_config !== undefined && quantization_config !== null) {
    const asked = JSON.stringify(quantization_config).slice(0, 80)
    return yield* fail("Unsupported", "quantization_config", `quantised weights are not supported: ${asked}`)
  }

  const config = yield* decodeJson(LlamaConfig, file, json)
  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  const headDim = config.head_dim ?? config.hidden_size / heads
  if (heads % kvHeads !== 0) {
    return yield* fail("InvalidField", "num_key_value_heads", `${kvHeads} does not divide num_attention_heads ${heads}`)
  }
  if (!Number.isInteger(headDim)) {
    const numbers = `hidden_size ${config.hidden_size} / num_attention_heads ${heads} is ${headDim}`
    return yield* fail("InvalidField", "head_dim", `absent, and ${numbers}, not a whole number`)
  }
  if (headDim % 2 !== 0) {
    return yield* fail("InvalidField", "head_dim", `${headDim} is odd; rotary embedding pairs dimensions`)
  }
  if (config.hidden_act !== undefined && config.hidden_act !== "silu") {
    return yield* fail("Unsupported", "hidden_act", `"${config.hidden_act}"; supported: "silu"`)
  }
  const rotary = config.partial_rotary_factor ?? config.rope_parameters?.partial_rotary_factor ?? 1
  if (rotary !== 1) return yield* fail("Unsupported", "partial_rotary_factor", `${rotary}; supported: 1`)

  return {
    architecture,
    hiddenSize: config.hidden_size,
    intermediateSize: config.intermediate_size,
    vocabSize: config.vocab_size,
    maxPositions: config.max_position_embeddings,
    heads,
    kvHeads,
    headDim,
    attentionScale: 1 / Math.sqrt(headDim),
    attentionSoftCap: 0,
    normEps: config.rms_norm_eps,
    tieWordEmbeddings: config.tie_word_embeddings ?? false,
    attentionBias: config.attention_bias ?? false,
    mlpBias: config.mlp_bias ?? false,
    rope: yield* ropeOf(file, config),
    layers: Array.from({ length: config.num_hidden_layers }, () => ({ kind: "full", window: 0 }) as const),
    stateBytesPerLayer: 0,
    eosTokenIds: tokenIds(config.eos_token_id),
  } satisfies ModelSpec
})

/** An id, a list of ids or nothing, as a list. */
export const tokenIds = (ids: typeof TokenIds.Type | undefined): ReadonlyArray<number> =>
  ids === null || ids === undefined ? [] : typeof ids === "number" ? [ids] : ids

const ropeOf = Effect.fnUntraced(function* (file: string, config: typeof LlamaConfig.Type) {
  const fields = config.rope_parameters ?? config.rope_scaling ?? {}
  const name = config.rope_parameters ? "rope_parameters" : "rope_scaling"
  const theta = fields.rope_theta ?? config.rope_theta ?? 10_000
  const type = fields.rope_type ?? fields.type ?? "default"
  const need = (key: "factor" | "low_freq_factor" | "high_freq_factor" | "original_max_position_embeddings") => {
    const value = fields[key]
    return value === undefined
      ? Effect.fail(
          new ModelError({
            reason: "InvalidField",
            file,
            field: `${name}.${key}`,
            detail: `missing; ${type} needs it`,
          }),
        )
      : Effect.succeed(value)
  }
  if (type === "default") return { theta, scaling: { type: "none" } } satisfies RopeSpec
  if (type === "linear") {
    return { theta, scaling: { type: "linear", factor: yield* need("factor") } } satisfies RopeSpec
  }
  if (type === "llama3") {
    const lowFreqFactor = yield* need("low_freq_factor")
    const highFreqFactor = yield* need("high_freq_factor")
    if (highFreqFactor <= lowFreqFactor) {
      const detail = `${highFreqFactor} is not above low_freq_factor ${lowFreqFactor}`
      return yield* Effect.fail(
        new ModelError({ reason: "InvalidField", file, field: `${name}.high_freq_factor`, detail }),
      )
    }
    const factor = yield* need("factor")
    const originalMaxPositions = yield* need("original_max_position_embeddings")
    const scaling = { type: "llama3", factor, lowFreqFactor, highFreqFactor, originalMaxPositions } as const
    return { theta, scaling } satisfies RopeSpec
  }
  return yield* Effect.fail(
    new ModelError({
      reason: "Unsupported",
      file,
      field: `${name}.rope_type`,
      detail: `"${type}"; supported: "default", "linear", "llama3"`,
    }),
  )
})
