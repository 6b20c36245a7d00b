import { Schema } from "effect"
import type { AttentionSpec, DeltaSpec, LayerSpec, MlpSpec, ModelSpec } from "../ModelSpec.ts"
import {
  Count,
  decodeFields,
  headsOf,
  invalid,
  type JsonObject,
  layerTypes,
  nested,
  only,
  optional,
  Positive,
  tokenIds,
  TokenIds,
  unsupported,
} from "./Config.ts"
import type { Family, TensorNames } from "./Family.ts"
import { RopeHomes, ropeOf } from "./Rope.ts"
import { attentionTensors, expertTensors, mlpTensors } from "./Tensors.ts"

/**
 * Full attention with gated output every few layers, Gated DeltaNet elsewhere. Qwen3-Next lays a DeltaNet layer's input
 * projections out by key head and may have dense layers among those with experts.
 */
const variants = {
  Qwen3_5ForCausalLM: { nested: false, experts: false, next: false },
  Qwen3_5ForConditionalGeneration: { nested: true, experts: false, next: false },
  Qwen3_5MoeForCausalLM: { nested: false, experts: true, next: false },
  Qwen3_5MoeForConditionalGeneration: { nested: true, experts: true, next: false },
  Qwen3NextForCausalLM: { nested: false, experts: true, next: true },
} as const

const Base = {
  hidden_size: Count,
  num_hidden_layers: Count,
  num_attention_heads: Count,
  num_key_value_heads: Count,
  head_dim: optional(Count),
  vocab_size: Count,
  max_position_embeddings: optional(Count),
  rms_norm_eps: optional(Positive),
  ...RopeHomes,
  tie_word_embeddings: optional(Schema.Boolean),
  attention_bias: optional(Schema.Boolean),
  attn_output_gate: optional(Schema.Boolean),
  hidden_act: optional(Schema.String),
  full_attention_interval: optional(Count),
  layer_types: optional(Schema.Array(Schema.String)),
  linear_conv_kernel_dim: optional(Count),
  linear_key_head_dim: optional(Count),
  linear_value_head_dim: optional(Count),
  linear_num_key_heads: Count,
  linear_num_value_heads: Count,
  intermediate_size: optional(Count),
  mlp_only_layers: optional(Schema.Array(Schema.Int)),
  eos_token_id: optional(TokenIds),
}
const Experts = {
  num_experts: optional(Count),
  num_experts_per_tok: optional(Count),
  moe_intermediate_size: optional(Count),
  shared_expert_intermediate_size: optional(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))),
}
const Next = { norm_topk_prob: optional(Schema.Boolean), decoder_sparse_step: optional(Count) }
const Fields = { ...Base, ...Experts, ...Next }
type Config = Schema.Struct<typeof Fields>["Type"]

const Outer = {
  text_config: Schema.Unknown,
  vision_config: optional(Schema.Unknown),
  tie_word_embeddings: optional(Schema.Boolean),
  eos_token_id: optional(TokenIds),
}

const spec = (json: JsonObject, architecture: string): ModelSpec => {
  const variant = variants[architecture as keyof typeof variants]
  const fields = { ...Base, ...(variant.experts ? Experts : {}), ...(variant.next ? Next : {}) } as typeof Fields
  if (!variant.nested) return specOf(decodeFields(fields, json, architecture), architecture, "")
  const outer = decodeFields(Outer, json, architecture)
  const at = "text_config."
  const text = decodeFields(fields, nested(json, "text_config"), architecture, at)
  const tied = outer.tie_word_embeddings ?? text.tie_word_embeddings ?? false
  const eos = outer.eos_token_id ?? text.eos_token_id
  return specOf(
    { ...text, tie_word_embeddings: tied, ...(eos === undefined ? {} : { eos_token_id: eos }) },
    architecture,
    at,
  )
}

const specOf = (config: Config, architecture: string, at: string): ModelSpec => {
  const variant = variants[architecture as keyof typeof variants]
  only(`${at}hidden_act`, config.hidden_act, "silu")
  only(`${at}attn_output_gate`, config.attn_output_gate, true)
  const norm = { eps: config.rms_norm_eps ?? 1e-6, offset: 1 }
  const dimensions = headsOf(
    config.num_attention_heads,
    config.num_key_value_heads,
    config.head_dim ?? 256,
    config.hidden_size,
    at,
  )
  const attention: AttentionSpec = {
    kind: "full",
    window: 0,
    ...dimensions,
    scale: 1 / Math.sqrt(dimensions.headDim),
    softCap: 0,
    rope: ropeOf(config, { headDim: dimensions.headDim, theta: 10_000, partial: 0.25 }, at),
    qkNorm: norm,
    outputGate: true,
    bias: config.attention_bias === true ? "qkvo" : "none",
  }
  const delta = deltaOf(config, norm.eps, variant.next, at)
  const interval = config.full_attention_interval ?? 4
  const types = layerTypes(
    {
      count: config.num_hidden_layers,
      listed: config.layer_types,
      known: ["full_attention", "linear_attention"],
      otherwise: (layer) => ((layer + 1) % interval === 0 ? "full_attention" : "linear_attention"),
    },
    at,
  )
  return {
    architecture,
    hiddenSize: config.hidden_size,
    vocabSize: config.vocab_size,
    maxPositions: config.max_position_embeddings ?? 32_768,
    embeddingScale: 1,
    logitSoftCap: 0,
    finalNorm: norm,
    tieWordEmbeddings: config.tie_word_embeddings ?? false,
    layers: types.map((type, layer): LayerSpec => ({
      norm,
      postNorms: false,
      mixer: type === "full_attention" ? attention : delta,
      mlp: mlpOf(config, layer, variant, at),
    })),
    eosTokenIds: tokenIds(config.eos_token_id),
  }
}

const deltaOf = (config: Config, normEps: number, grouped: boolean, at: string): DeltaSpec => {
  const keyHeads = config.linear_num_key_heads
  const valueHeads = config.linear_num_value_heads
  if (valueHeads % keyHeads !== 0) {
    invalid(`${at}linear_num_value_heads`, `${valueHeads} is no multiple of linear_num_key_heads ${keyHeads}`)
  }
  return {
    kind: "delta",
    keyHeads,
    valueHeads,
    keyDim: config.linear_key_head_dim ?? 128,
    valueDim: config.linear_value_head_dim ?? 128,
    convKernel: config.linear_conv_kernel_dim ?? 4,
    grouped,
    normaliseInput: "float",
    normEps,
  }
}

const mlpOf = (config: Config, layer: number, variant: { experts: boolean; next: boolean }, at: string): MlpSpec => {
  const isListed = (config.mlp_only_layers ?? []).includes(layer)
  if (isListed && variant.experts && !variant.next) {
    unsupported(`${at}mlp_only_layers`, `names layer ${layer}; every layer has experts in this architecture`)
  }
  const isSparse = variant.experts && !isListed && (layer + 1) % (config.decoder_sparse_step ?? 1) === 0
  if (!isSparse) {
    const inner = config.intermediate_size ?? invalid(`${at}intermediate_size`, "missing")
    return { kind: "gated", activation: "silu", inner, bias: false }
  }
  const experts = config.num_experts ?? invalid(`${at}num_experts`, "missing")
  const topK = config.num_experts_per_tok ?? invalid(`${at}num_experts_per_tok`, "missing")
  if (topK > experts) invalid(`${at}num_experts_per_tok`, `${topK} of ${experts} experts`)
  return {
    kind: "moe",
    activation: "silu",
    experts,
    topK,
    inner: config.moe_intermediate_size ?? invalid(`${at}moe_intermediate_size`, "missing"),
    renormalise: variant.next ? (config.norm_topk_prob ?? true) : true,
    sharedInner: config.shared_expert_intermediate_size ?? 0,
  }
}

const tensors = (model: ModelSpec, present: ReadonlySet<string>): TensorNames => {
  const prefixes = ["model.", "model.language_model."]
  if (variants[model.architecture as keyof typeof variants].nested) prefixes.reverse()
  const prefix = prefixes.find((one) => present.has(`${one}embed_tokens.weight`)) ?? prefixes[0]!
  return {
    embedding: `${prefix}embed_tokens.weight`,
    finalNorm: `${prefix}norm.weight`,
    lmHead: model.tieWordEmbeddings ? `${prefix}embed_tokens.weight` : "lm_head.weight",
    layers: model.layers.map(({ mixer, mlp }, layer) => {
      const at = `${prefix}layers.${layer}.`
      const attention = mixer.kind === "delta" ? null : attentionTensors(`${at}self_attn.`, mixer)
      return {
        inputNorm: `${at}input_layernorm.weight`,
        mlpNorm: `${at}post_attention_layernorm.weight`,
        ...(mixer.kind === "delta" ? deltaTensors(`${at}linear_attn.`, mixer) : attention!.weights),
        ...(mlp.kind === "moe" ? expertTensors(`${at}mlp.`, mlp, present) : mlpTensors(`${at}mlp.`).weights),
        ...attention?.biases,
      }
    }),
    // The layers that predict further tokens, and the eye.
    ignore: [
      "*.rotary_emb.inv_freq",
      "mtp.*",
      "model.visual.*",
      ...(model.tieWordEmbeddings ? ["lm_head.weight"] : []),
    ],
  }
}

const deltaTensors = (at: string, { grouped }: DeltaSpec): Readonly<Record<string, string>> => ({
  ...(grouped
    ? { qkvz: `${at}in_proj_qkvz.weight`, ba: `${at}in_proj_ba.weight` }
    : {
        qkv: `${at}in_proj_qkv.weight`,
        z: `${at}in_proj_z.weight`,
        b: `${at}in_proj_b.weight`,
        a: `${at}in_proj_a.weight`,
      }),
  conv: `${at}conv1d.weight`,
  aLog: `${at}A_log`,
  dtBias: `${at}dt_bias`,
  deltaNorm: `${at}norm.weight`,
  out: `${at}out_proj.weight`,
})

export const qwen35: Family = { architectures: Object.keys(variants), spec, tensors }
