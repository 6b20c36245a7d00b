import { Schema } from "effect"
import type { AttentionSpec, LayerSpec, MlpSpec, ModelSpec } from "../ModelSpec.ts"
import {
  Count,
  decodeFields,
  headsOf,
  invalid,
  type JsonObject,
  layerTypes,
  only,
  optional,
  Positive,
  tokenIds,
  TokenIds,
  unsupported,
} from "./Config.ts"
import type { Family, TensorNames } from "./Family.ts"
import { attentionTensors, expertTensors, mlpTensors } from "./Tensors.ts"
import { RopeHomes, ropeOf } from "./Rope.ts"

/** Llama, and the models that differ from it by bias, q/k norm, windows and experts. */
const variants = {
  LlamaForCausalLM: { bias: "config", qkNorm: false, windows: "none", experts: false, headDim: undefined },
  MistralForCausalLM: { bias: "none", qkNorm: false, windows: "all", experts: false, headDim: undefined },
  Qwen2ForCausalLM: { bias: "qkv", qkNorm: false, windows: "switched", experts: false, headDim: undefined },
  Qwen3ForCausalLM: { bias: "config", qkNorm: true, windows: "switched", experts: false, headDim: 128 },
  Qwen3MoeForCausalLM: { bias: "config", qkNorm: true, windows: "switched", experts: true, headDim: undefined },
} as const

const Base = {
  hidden_size: Count,
  intermediate_size: Count,
  num_hidden_layers: Count,
  num_attention_heads: Count,
  num_key_value_heads: optional(Count),
  head_dim: optional(Count),
  vocab_size: Count,
  max_position_embeddings: Count,
  rms_norm_eps: Positive,
  ...RopeHomes,
  tie_word_embeddings: optional(Schema.Boolean),
  hidden_act: optional(Schema.String),
  eos_token_id: optional(TokenIds),
}
const Biases = { attention_bias: optional(Schema.Boolean), mlp_bias: optional(Schema.Boolean) }
const Windows = {
  sliding_window: optional(Count),
  use_sliding_window: optional(Schema.Boolean),
  max_window_layers: optional(Schema.Int),
  layer_types: optional(Schema.Array(Schema.String)),
}
const Experts = {
  num_experts: optional(Count),
  num_local_experts: optional(Count),
  num_experts_per_tok: optional(Count),
  moe_intermediate_size: optional(Count),
  norm_topk_prob: optional(Schema.Boolean),
  decoder_sparse_step: optional(Count),
  mlp_only_layers: optional(Schema.Array(Schema.Int)),
}
const Fields = { ...Base, ...Biases, ...Windows, ...Experts }
type Config = Schema.Struct<typeof Fields>["Type"]

const fieldsOf = (name: keyof typeof variants): Partial<typeof Fields> => {
  const { bias, windows, experts } = variants[name]
  return {
    ...Base,
    // Qwen2 says nothing of its biases; a Llama's MLP may have them, a Qwen's not.
    ...(bias === "config" ? { attention_bias: Biases.attention_bias } : {}),
    ...(name === "LlamaForCausalLM" ? { mlp_bias: Biases.mlp_bias } : {}),
    ...(windows === "all" ? { sliding_window: Windows.sliding_window } : {}),
    ...(windows === "switched" ? Windows : {}),
    ...(experts ? Experts : {}),
  }
}

const spec = (json: JsonObject, architecture: string): ModelSpec => {
  const name = architecture as keyof typeof variants
  const variant = variants[name]
  const config = decodeFields(fieldsOf(name) as typeof Fields, json, architecture)
  only("hidden_act", config.hidden_act, "silu")
  const dimensions = headsOf(
    config.num_attention_heads,
    config.num_key_value_heads ?? config.num_attention_heads,
    config.head_dim ?? variant.headDim,
    config.hidden_size,
  )
  const norm = { eps: config.rms_norm_eps, offset: 0 }
  const attention: AttentionSpec = {
    kind: "full",
    window: 0,
    ...dimensions,
    scale: 1 / Math.sqrt(dimensions.headDim),
    softCap: 0,
    rope: ropeOf(config, { headDim: dimensions.headDim, theta: 10_000, partial: 1 }),
    qkNorm: variant.qkNorm ? norm : null,
    outputGate: false,
    bias: variant.bias === "qkv" ? "qkv" : config.attention_bias === true ? "qkvo" : "none",
  }
  if (attention.rope.dim !== attention.headDim) {
    unsupported("partial_rotary_factor", `${attention.rope.dim / attention.headDim}; supported: 1`)
  }
  const windows = windowsOf(config, variant.windows)
  const dense: MlpSpec = {
    kind: "gated",
    activation: "silu",
    inner: config.intermediate_size,
    bias: config.mlp_bias ?? false,
  }
  const experts = variant.experts ? expertsOf(config) : null
  return {
    architecture,
    hiddenSize: config.hidden_size,
    vocabSize: config.vocab_size,
    maxPositions: config.max_position_embeddings,
    embeddingScale: 1,
    logitSoftCap: 0,
    finalNorm: norm,
    tieWordEmbeddings: config.tie_word_embeddings ?? false,
    layers: windows.map((window, layer): LayerSpec => ({
      norm,
      postNorms: false,
      mixer: window === 0 ? attention : { ...attention, kind: "sliding", window },
      mlp: experts !== null && isSparse(config, layer) ? experts : dense,
    })),
    eosTokenIds: tokenIds(config.eos_token_id),
  }
}

/** Window of every layer; 0 in full attention. */
const windowsOf = (config: Config, rule: "none" | "all" | "switched"): ReadonlyArray<number> => {
  const count = config.num_hidden_layers
  const window = config.sliding_window ?? 0
  if (rule !== "switched") return Array.from({ length: count }, () => window)
  const isOn = config.use_sliding_window === true && window > 0
  const types = layerTypes({
    count,
    listed: config.layer_types,
    known: ["full_attention", "sliding_attention"],
    otherwise: (layer) => (isOn && layer >= (config.max_window_layers ?? 28) ? "sliding_attention" : "full_attention"),
  })
  return types.map((type, layer) => {
    if (type === "full_attention") return 0
    if (isOn) return window
    return invalid(
      `layer_types.${layer}`,
      "sliding_attention, and use_sliding_window and sliding_window name no window",
    )
  })
}

const expertsOf = (config: Config): MlpSpec => {
  const experts = config.num_experts ?? config.num_local_experts ?? invalid("num_experts", "missing")
  const topK = config.num_experts_per_tok ?? 8
  if (topK > experts) invalid("num_experts_per_tok", `${topK} of ${experts} experts`)
  return {
    kind: "moe",
    activation: "silu",
    experts,
    topK,
    inner: config.moe_intermediate_size ?? invalid("moe_intermediate_size", "missing"),
    renormalise: config.norm_topk_prob ?? false,
    sharedInner: 0,
  }
}

const isSparse = (config: Config, layer: number): boolean =>
  !(config.mlp_only_layers ?? []).includes(layer) && (layer + 1) % (config.decoder_sparse_step ?? 1) === 0

const tensors = (model: ModelSpec, present: ReadonlySet<string>): TensorNames => ({
  embedding: "model.embed_tokens.weight",
  finalNorm: "model.norm.weight",
  lmHead: model.tieWordEmbeddings ? "model.embed_tokens.weight" : "lm_head.weight",
  layers: model.layers.map(({ mixer, mlp }, layer) => {
    const at = `model.layers.${layer}.`
    const attention = mixer.kind === "delta" ? null : attentionTensors(`${at}self_attn.`, mixer)
    return {
      inputNorm: `${at}input_layernorm.weight`,
      mlpNorm: `${at}post_attention_layernorm.weight`,
      ...attention?.weights,
      ...(mlp.kind === "moe" ? expertTensors(`${at}mlp.`, mlp, present) : mlpTensors(`${at}mlp.`).weights),
      ...attention?.biases,
      ...(mlp.kind === "gated" && mlp.bias ? mlpTensors(`${at}mlp.`).biases : {}),
    }
  }),
  ignore: ["*.rotary_emb.inv_freq", ...(model.tieWordEmbeddings ? ["lm_head.weight"] : [])],
})

export const llama: Family = { architectures: Object.keys(variants), spec, tensors }
