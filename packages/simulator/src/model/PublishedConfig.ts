import { inSixteenBits, type ModelShape } from "@uniprefill/cost-model/ModelShape"
import {
  ConfigFault,
  Count,
  decodeFields,
  headsOf,
  invalid,
  type JsonObject,
  layerTypes,
  nested,
  optional,
  unsupported,
} from "@uniprefill/model/families/Config"
import { supportedArchitectures } from "@uniprefill/model/families/Families"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import { ModelError } from "@uniprefill/model/ModelError"
import type { AttentionSpec, LayerSpec, MixerSpec, MlpSpec, ModelSpec } from "@uniprefill/model/ModelSpec"
import { Schema } from "effect"

const Flag = optional(Schema.Boolean)
const Size = optional(Count)

/** What sizes depend on, under the names that Hugging Face configurations give it. */
const Sizes = {
  hidden_size: Count,
  num_hidden_layers: Count,
  num_attention_heads: Count,
  num_key_value_heads: Size,
  head_dim: Size,
  intermediate_size: Size,
  vocab_size: Count,
  max_position_embeddings: Count,
  tie_word_embeddings: Flag,
  attention_bias: Flag,
  layer_types: optional(Schema.Array(Schema.String)),
  sliding_window: Size,
  use_sliding_window: Flag,
  sliding_window_pattern: Size,
  num_experts: Size,
  num_local_experts: Size,
  n_routed_experts: Size,
  num_experts_per_tok: Size,
  moe_intermediate_size: Size,
  shared_expert_intermediate_size: Size,
  n_shared_experts: Size,
  first_k_dense_replace: optional(Schema.Int),
  moe_layer_freq: Size,
}

/** What changes how a layer computes, but neither its sizes nor its cost. */
const neutral = [
  ..."hidden_act hidden_activation rms_norm_eps rope_theta rope_scaling rope_parameters partial_rotary_factor".split(
    " ",
  ),
  ..."rope_local_base_freq query_pre_attn_scalar attn_logit_softcapping final_logit_softcapping eos_token_id".split(
    " ",
  ),
  ..."norm_topk_prob scoring_func topk_method topk_group n_group routed_scaling_factor router_jitter_noise".split(" "),
  ..."aux_loss_alpha seq_aux ep_size swiglu_limit initial_context_length mlp_bias clip_qkv".split(" "),
]
const Fields = { ...Sizes, ...Object.fromEntries(neutral.map((name) => [name, optional(Schema.Unknown)])) }
type Config = Schema.Struct<typeof Sizes>["Type"]

const layerNorms = "models with LayerNorm, whose MLPs mostly have no gate,"

/** Parts that are not modelled: named, not passed over. */
const unmodelled: Readonly<Record<string, string>> = {
  kv_lora_rank: "multi-head latent attention",
  quantization_config: "quantised weights",
  mamba_d_state: "Mamba layers",
  ssm_state_size: "Mamba layers",
  state_size: "Mamba layers",
  attn_type_list: "layers of lightning attention",
  layer_norm_eps: layerNorms,
  layer_norm_epsilon: layerNorms,
  norm_epsilon: layerNorms,
}

/** Activations of MLPs that have a gate. Others, as relu2, mean two matrices in place of three. */
const gated = ["silu", "swish", "gelu_pytorch_tanh"]

/**
 * The shape of a decoder from its published config.json. Of the families that are served it is the table that they are
 * served by; of others, made of full and sliding-window layers with gated MLPs or experts, only sizes are read. A field
 * that neither the sizes nor the neutral ones list is refused by name, since it may change a size. Weights and K/V are 16
 * bits.
 *
 * Fails with ModelError: `InvalidField` naming the field, `Unsupported` for what the cost model has no terms for.
 */
export const decodeShape = (file: string, json: unknown): ModelShape => {
  if (typeof json !== "object" || json === null || Array.isArray(json)) return readModelConfig(file, json) as never
  const config = json as JsonObject
  const architectures = config["architectures"]
  const names = Array.isArray(architectures) ? architectures.map(String) : []
  if (names.some((name) => supportedArchitectures.includes(name)))
    return inSixteenBits(readModelConfig(file, json).spec)
  try {
    return inSixteenBits(sizesOf(config, names[0] ?? "unnamed"))
  } catch (fault) {
    if (!(fault instanceof ConfigFault)) throw fault
    throw new ModelError({ reason: fault.reason, file, field: fault.field, detail: fault.message })
  }
}

const sizesOf = (whole: JsonObject, architecture: string): ModelSpec => {
  // Models that also see keep the language part under a name of its own.
  const at = (whole["text_config"] ?? null) === null ? "" : "text_config."
  const text = at === "" ? whole : nested(whole, "text_config")
  for (const [field, what] of Object.entries(unmodelled)) {
    if ((text[field] ?? whole[field] ?? null) !== null) {
      unsupported(field, `${what} have no terms in the cost model`)
    }
  }
  const config = decodeFields(Fields, text, architecture, at)
  const activation = text["hidden_activation"] ?? text["hidden_act"]
  if (typeof activation === "string" && !gated.includes(activation) && !architecture.startsWith("Gemma")) {
    unsupported(`${at}hidden_act`, `MLPs without a gate, as ${activation} says, have no terms in the cost model`)
  }
  const dimensions = headsOf(
    config.num_attention_heads,
    config.num_key_value_heads ?? config.num_attention_heads,
    config.head_dim,
    config.hidden_size,
    at,
  )
  const attention: AttentionSpec = {
    kind: "full",
    window: 0,
    ...dimensions,
    scale: 1 / Math.sqrt(dimensions.headDim),
    softCap: 0,
    rope: { theta: 10_000, dim: dimensions.headDim, scaling: { type: "none" } },
    qkNorm: null,
    outputGate: false,
    bias: config.attention_bias === true ? "qkvo" : "none",
  }
  const norm = { eps: 1e-6, offset: 0 }
  return {
    architecture,
    hiddenSize: config.hidden_size,
    vocabSize: config.vocab_size,
    maxPositions: config.max_position_embeddings,
    embeddingScale: 1,
    logitSoftCap: 0,
    finalNorm: norm,
    tieWordEmbeddings: config.tie_word_embeddings ?? architecture.startsWith("Gemma"),
    layers: mixersOf(config, architecture, attention, at).map((mixer, layer): LayerSpec => ({
      norm,
      postNorms: architecture.startsWith("Gemma2"),
      mixer,
      mlp: mlpOf(config, layer, at),
    })),
    eosTokenIds: [],
  }
}

/** Kinds of layers: listed, or by one of the rules that configurations had before they listed them. */
const mixersOf = (
  config: Config,
  architecture: string,
  attention: AttentionSpec,
  at: string,
): ReadonlyArray<MixerSpec> => {
  const window = config.sliding_window ?? 0
  const pattern = config.sliding_window_pattern ?? (architecture.startsWith("Gemma2") ? 2 : 0)
  const windowed = window > 0 && config.use_sliding_window !== false
  const types = layerTypes(
    {
      count: config.num_hidden_layers,
      listed: config.layer_types,
      known: ["full_attention", "sliding_attention"],
      otherwise: (layer) =>
        windowed && !(pattern > 0 && (layer + 1) % pattern === 0) ? "sliding_attention" : "full_attention",
    },
    at,
  )
  return types.map((type, layer) => {
    if (type === "full_attention") return attention
    if (window === 0) invalid(`${at}sliding_window`, `absent, and layer ${layer} is sliding_attention`)
    return { ...attention, kind: "sliding", window }
  })
}

const mlpOf = (config: Config, layer: number, at: string): MlpSpec => {
  const experts = config.num_experts ?? config.num_local_experts ?? config.n_routed_experts ?? 0
  const isSparse =
    experts > 0 && layer >= (config.first_k_dense_replace ?? 0) && layer % (config.moe_layer_freq ?? 1) === 0
  if (!isSparse) {
    const inner = config.intermediate_size ?? invalid(`${at}intermediate_size`, "absent, and the layer has no experts")
    return { kind: "gated", activation: "silu", inner, bias: false }
  }
  const topK = config.num_experts_per_tok ?? 0
  if (topK === 0 || topK > experts) invalid(`${at}num_experts_per_tok`, `${topK} of ${experts} experts`)
  const inner =
    config.moe_intermediate_size ??
    config.intermediate_size ??
    invalid(`${at}moe_intermediate_size`, "absent, and so is intermediate_size")
  const sharedInner = config.shared_expert_intermediate_size ?? (config.n_shared_experts ?? 0) * inner
  return { kind: "moe", activation: "silu", experts, topK, inner, renormalise: true, sharedInner }
}
