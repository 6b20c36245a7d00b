import { inSixteenBits, type ModelShape } from "@uniprefill/cost-model/ModelShape"
import { decodeJson } from "@uniprefill/model/JsonFile"
import { ModelError } from "@uniprefill/model/ModelError"
import type { AttentionSpec, DeltaSpec, LayerSpec, MixerSpec, MlpSpec } from "@uniprefill/model/ModelSpec"
import { Effect, Schema } from "effect"

const Count = Schema.Int.check(Schema.isGreaterThan(0))
const Optional = Schema.optionalKey(Schema.NullOr(Count))
const Flag = Schema.optionalKey(Schema.NullOr(Schema.Boolean))

/** What costs and memory depend on, under the names that Hugging Face configurations give it. */
const Fields = Schema.Struct({
  hidden_size: Count,
  num_hidden_layers: Count,
  num_attention_heads: Count,
  num_key_value_heads: Optional,
  head_dim: Optional,
  intermediate_size: Optional,
  vocab_size: Count,
  max_position_embeddings: Count,
  tie_word_embeddings: Flag,
  layer_types: Schema.optionalKey(Schema.NullOr(Schema.Array(Schema.String))),
  sliding_window: Optional,
  use_sliding_window: Flag,
  sliding_window_pattern: Optional,
  full_attention_interval: Optional,
  num_experts: Optional,
  num_local_experts: Optional,
  n_routed_experts: Optional,
  num_experts_per_tok: Optional,
  moe_intermediate_size: Optional,
  shared_expert_intermediate_size: Optional,
  n_shared_experts: Optional,
  first_k_dense_replace: Schema.optionalKey(Schema.NullOr(Schema.Int)),
  decoder_sparse_step: Optional,
  linear_num_key_heads: Optional,
  linear_num_value_heads: Optional,
  linear_key_head_dim: Optional,
  linear_value_head_dim: Optional,
  linear_conv_kernel_dim: Optional,
})

type Config = (typeof Fields)["Type"]

/** Parts that are not modelled: named, not passed over. */
const unmodelled: Readonly<Record<string, string>> = {
  kv_lora_rank: "multi-head latent attention",
  quantization_config: "quantised weights",
  mamba_d_state: "Mamba layers",
  state_size: "Mamba layers",
}

/**
 * The shape of a decoder from its config.json, of any architecture that is made of full, sliding-window and Gated DeltaNet layers
 * with dense or expert MLPs: no weights are read, so only sizes matter. Rotary embedding, norms and activations are not looked
 * at: their cost is in the rows. Weights and K/V are 16 bits.
 *
 * Fails with ModelError: `InvalidField` naming the field, `Unsupported` for what the cost model has no terms for.
 */
export const decodeShape = (file: string, json: unknown): ModelShape => Effect.runSync(shapeOf(file, json))

const shapeOf = Effect.fnUntraced(function* (file: string, json: unknown) {
  const whole = typeof json === "object" && json !== null ? (json as Record<string, unknown>) : {}
  // Models that also see keep the language part under a name of its own.
  const text = whole["text_config"] ?? json
  const fields = text as Record<string, unknown>
  for (const [field, what] of Object.entries(unmodelled)) {
    const value = fields[field] ?? whole[field]
    if (value === undefined || value === null) continue
    return yield* refuse(file, "Unsupported", field, `${what} have no terms in the cost model`)
  }
  const config = yield* decodeJson(Fields, file, text)
  const heads = config.num_attention_heads
  const kvHeads = config.num_key_value_heads ?? heads
  const headDim = config.head_dim ?? config.hidden_size / heads
  if (heads % kvHeads !== 0)
    return yield* refuse(file, "InvalidField", "num_key_value_heads", `${kvHeads} does not divide ${heads} heads`)
  if (!Number.isInteger(headDim)) {
    const numbers = `hidden_size ${config.hidden_size} / num_attention_heads ${heads} is ${headDim}`
    return yield* refuse(file, "InvalidField", "head_dim", `absent, and ${numbers}, not a whole number`)
  }
  const architectures = whole["architectures"]
  const architecture = Array.isArray(architectures) ? String(architectures[0]) : "unnamed"
  const attention: AttentionSpec = {
    kind: "full",
    window: 0,
    heads,
    kvHeads,
    headDim,
    scale: 1 / Math.sqrt(headDim),
    softCap: 0,
    rope: { theta: 10_000, dim: headDim, scaling: { type: "none" } },
    qkNorm: null,
    outputGate: architecture.startsWith("Qwen3Next") || architecture.startsWith("Qwen3_5"),
    bias: "none",
  }
  const mixers = yield* mixersOf(file, config, architecture, attention)
  const experts = yield* expertsOf(file, config)
  const inner = config.intermediate_size ?? null
  if (experts === null && inner === null)
    return yield* refuse(file, "InvalidField", "intermediate_size", "absent, and there are no experts")
  const mlp: MlpSpec = experts ?? { kind: "gated", activation: "silu", inner: inner!, bias: false }
  const norm = { eps: 1e-6, offset: 0 }
  return inSixteenBits({
    architecture,
    hiddenSize: config.hidden_size,
    vocabSize: config.vocab_size,
    maxPositions: config.max_position_embeddings,
    embeddingScale: 1,
    logitSoftCap: 0,
    finalNorm: norm,
    tieWordEmbeddings: config.tie_word_embeddings ?? false,
    layers: mixers.map((mixer): LayerSpec => ({ norm, postNorms: false, mixer, mlp })),
    eosTokenIds: [],
  })
})

/** Kinds of layers: listed, or by one of the rules that configurations had before they listed them. */
const mixersOf = Effect.fnUntraced(function* (
  file: string,
  config: Config,
  architecture: string,
  attention: AttentionSpec,
) {
  const count = config.num_hidden_layers
  const window = config.sliding_window ?? 0
  const types = config.layer_types ?? null
  if (types !== null && types.length !== count) {
    return yield* refuse(
      file,
      "InvalidField",
      "layer_types",
      `lists ${types.length} layers, num_hidden_layers is ${count}`,
    )
  }
  const mixers: Array<MixerSpec> = []
  for (let layer = 0; layer < count; layer++) {
    const type = types?.[layer] ?? unlisted(config, architecture, layer)
    if (type === "full_attention") mixers.push(attention)
    else if (type === "linear_attention") mixers.push(yield* deltaOf(file, config))
    else if (type !== "sliding_attention") {
      const known = "full_attention, sliding_attention, linear_attention"
      return yield* refuse(file, "Unsupported", `layer_types.${layer}`, `"${type}"; modelled: ${known}`)
    } else if (window === 0) {
      return yield* refuse(file, "InvalidField", "sliding_window", `absent, and layer ${layer} is sliding_attention`)
    } else mixers.push({ ...attention, kind: "sliding", window })
  }
  return mixers
})

const unlisted = (config: Config, architecture: string, layer: number): string => {
  const interval = config.full_attention_interval ?? 0
  if (interval > 0) return (layer + 1) % interval === 0 ? "full_attention" : "linear_attention"
  if ((config.sliding_window ?? 0) === 0 || config.use_sliding_window === false) return "full_attention"
  const pattern = config.sliding_window_pattern ?? (architecture.startsWith("Gemma2") ? 2 : 0)
  return pattern > 0 && (layer + 1) % pattern === 0 ? "full_attention" : "sliding_attention"
}

const expertsOf = Effect.fnUntraced(function* (file: string, config: Config) {
  const count = config.num_experts ?? config.num_local_experts ?? config.n_routed_experts ?? 0
  if (count === 0) return null
  const mixed = (config.first_k_dense_replace ?? 0) > 0 ? "first_k_dense_replace" : "decoder_sparse_step"
  if (mixed === "first_k_dense_replace" || (config.decoder_sparse_step ?? 1) > 1) {
    return yield* refuse(file, "Unsupported", mixed, "layers with and without experts have no terms in the cost model")
  }
  const active = config.num_experts_per_tok ?? 0
  if (active === 0 || active > count)
    return yield* refuse(file, "InvalidField", "num_experts_per_tok", `${active} of ${count} experts`)
  const width = config.moe_intermediate_size ?? config.intermediate_size ?? 0
  if (width === 0)
    return yield* refuse(file, "InvalidField", "moe_intermediate_size", "absent, and so is intermediate_size")
  const sharedWidth = config.shared_expert_intermediate_size ?? (config.n_shared_experts ?? 0) * width
  return {
    kind: "moe",
    activation: "silu",
    experts: count,
    topK: active,
    inner: width,
    renormalise: true,
    sharedInner: sharedWidth,
  } satisfies MlpSpec
})

const deltaOf = Effect.fnUntraced(function* (file: string, config: Config) {
  const need = (field: "linear_num_key_heads" | "linear_num_value_heads" | "linear_key_head_dim") => {
    const value = config[field] ?? 0
    const detail = "absent, and there are linear_attention layers"
    return value > 0 ? Effect.succeed(value) : refuse(file, "InvalidField", field, detail)
  }
  const keyHeads = yield* need("linear_num_key_heads")
  const valueHeads = yield* need("linear_num_value_heads")
  const keyDim = yield* need("linear_key_head_dim")
  return {
    kind: "delta",
    keyHeads,
    valueHeads,
    keyDim,
    valueDim: config.linear_value_head_dim ?? keyDim,
    convKernel: config.linear_conv_kernel_dim ?? 4,
    grouped: false,
    normaliseInput: "float",
    normEps: 1e-6,
  } satisfies DeltaSpec
})

const refuse = (file: string, reason: "InvalidField" | "Unsupported", field: string, detail: string) =>
  Effect.fail(new ModelError({ reason, file, field, detail }))
