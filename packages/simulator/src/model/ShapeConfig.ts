import type { ExpertShape, LinearShape, ModelShape } from "@uniprefill/cost-model/ModelShape"
import { decodeJson } from "@uniprefill/model/JsonFile"
import { ModelError } from "@uniprefill/model/ModelError"
import type { LayerSpec } from "@uniprefill/model/ModelSpec"
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
  const layers = yield* layersOf(file, config, architecture)
  const experts = yield* expertsOf(file, config)
  if (experts === null && (config.intermediate_size ?? null) === null)
    return yield* refuse(file, "InvalidField", "intermediate_size", "absent, and there are no experts")
  const hasStates = layers.some(({ kind }) => kind === "state")
  const linear = hasStates ? yield* linearOf(file, config) : null
  return {
    spec: {
      architecture,
      hiddenSize: config.hidden_size,
      intermediateSize: config.intermediate_size ?? experts!.width,
      vocabSize: config.vocab_size,
      maxPositions: config.max_position_embeddings,
      heads,
      kvHeads,
      headDim,
      attentionScale: 1 / Math.sqrt(headDim),
      attentionSoftCap: 0,
      normEps: 1e-6,
      tieWordEmbeddings: config.tie_word_embeddings ?? false,
      attentionBias: false,
      mlpBias: false,
      rope: { theta: 10_000, scaling: { type: "none" } },
      layers,
      stateBytesPerLayer: linear === null ? 0 : stateBytes(linear, config.linear_conv_kernel_dim ?? 4),
      eosTokenIds: [],
    },
    experts,
    linear,
    gatedAttention: architecture.startsWith("Qwen3Next"),
    weightBytes: 2,
    kvBytes: 2,
  } satisfies ModelShape
})

/** Kinds of layers: listed, or by one of the rules that configurations had before they listed them. */
const layersOf = Effect.fnUntraced(function* (file: string, config: Config, architecture: string) {
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
  const layers: Array<LayerSpec> = []
  for (let layer = 0; layer < count; layer++) {
    const type = types?.[layer] ?? unlisted(config, architecture, layer)
    if (type === "full_attention") layers.push({ kind: "full", window: 0 })
    else if (type === "linear_attention") layers.push({ kind: "state", window: 0 })
    else if (type !== "sliding_attention") {
      const known = "full_attention, sliding_attention, linear_attention"
      return yield* refuse(file, "Unsupported", `layer_types.${layer}`, `"${type}"; modelled: ${known}`)
    } else if (window === 0) {
      return yield* refuse(file, "InvalidField", "sliding_window", `absent, and layer ${layer} is sliding_attention`)
    } else layers.push({ kind: "sliding", window })
  }
  return layers
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
  return { count, active, width, sharedWidth } satisfies ExpertShape
})

const linearOf = Effect.fnUntraced(function* (file: string, config: Config) {
  const need = (field: "linear_num_key_heads" | "linear_num_value_heads" | "linear_key_head_dim") => {
    const value = config[field] ?? 0
    const detail = "absent, and there are linear_attention layers"
    return value > 0 ? Effect.succeed(value) : refuse(file, "InvalidField", field, detail)
  }
  const keyHeads = yield* need("linear_num_key_heads")
  const valueHeads = yield* need("linear_num_value_heads")
  const headDim = yield* need("linear_key_head_dim")
  const valueDim = config.linear_value_head_dim ?? headDim
  if (valueDim !== headDim) {
    const detail = `${valueDim}, and linear_key_head_dim is ${headDim}; modelled: equal ones`
    return yield* refuse(file, "Unsupported", "linear_value_head_dim", detail)
  }
  return { keyHeads, valueHeads, headDim } satisfies LinearShape
})

/** A state of headDim × headDim in f32 for each value head, and the convolution's columns over q, k and v in 16 bits. */
const stateBytes = ({ keyHeads, valueHeads, headDim }: LinearShape, kernel: number): number =>
  valueHeads * headDim * headDim * 4 + (kernel - 1) * (2 * keyHeads + valueHeads) * headDim * 2

const refuse = (file: string, reason: "InvalidField" | "Unsupported", field: string, detail: string) =>
  Effect.fail(new ModelError({ reason, file, field, detail }))
