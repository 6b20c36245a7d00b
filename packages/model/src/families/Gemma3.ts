import { Schema } from "effect"
import type { LayerSpec, ModelSpec } from "../ModelSpec.ts"
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
} from "./Config.ts"
import type { Family, TensorNames } from "./Family.ts"
import { ropeFrom, RopeHomes, ropeOfType } from "./Rope.ts"
import { attentionTensors, mlpTensors } from "./Tensors.ts"

/** What published configs leave out is what transformers' class has as defaults. */
const Fields = {
  hidden_size: Count,
  intermediate_size: Count,
  num_hidden_layers: Count,
  num_attention_heads: optional(Count),
  num_key_value_heads: optional(Count),
  head_dim: optional(Count),
  vocab_size: optional(Count),
  max_position_embeddings: optional(Count),
  rms_norm_eps: optional(Positive),
  ...RopeHomes,
  rope_local_base_freq: optional(Positive),
  tie_word_embeddings: optional(Schema.Boolean),
  attention_bias: optional(Schema.Boolean),
  hidden_activation: optional(Schema.String),
  hidden_act: optional(Schema.String),
  query_pre_attn_scalar: optional(Positive),
  sliding_window: optional(Count),
  sliding_window_pattern: optional(Count),
  layer_types: optional(Schema.Array(Schema.String)),
  attn_logit_softcapping: optional(Positive),
  final_logit_softcapping: optional(Positive),
  use_bidirectional_attention: optional(Schema.Boolean),
  eos_token_id: optional(TokenIds),
}
type Config = Schema.Struct<typeof Fields>["Type"]

/** A multimodal config keeps the language part under `text_config`. */
const Outer = {
  text_config: Schema.Unknown,
  vision_config: optional(Schema.Unknown),
  tie_word_embeddings: optional(Schema.Boolean),
  eos_token_id: optional(TokenIds),
}

const multimodal = "Gemma3ForConditionalGeneration"

const spec = (json: JsonObject, architecture: string): ModelSpec => {
  if (architecture !== multimodal) return specOf(decodeFields(Fields, json, architecture), architecture, "")
  const outer = decodeFields(Outer, json, architecture)
  const at = "text_config."
  const text = decodeFields(Fields, nested(json, "text_config"), architecture, at)
  const eos = outer.eos_token_id === undefined ? {} : { eos_token_id: outer.eos_token_id }
  const tied = outer.tie_word_embeddings === undefined ? {} : { tie_word_embeddings: outer.tie_word_embeddings }
  return specOf({ ...text, ...eos, ...tied }, architecture, at)
}

const specOf = (config: Config, architecture: string, at: string): ModelSpec => {
  only(`${at}hidden_activation`, config.hidden_activation ?? config.hidden_act, "gelu_pytorch_tanh")
  only(`${at}use_bidirectional_attention`, config.use_bidirectional_attention, false)
  const dimensions = headsOf(
    config.num_attention_heads ?? 8,
    config.num_key_value_heads ?? 4,
    config.head_dim ?? 256,
    config.hidden_size,
    at,
  )
  const norm = { eps: config.rms_norm_eps ?? 1e-6, offset: 1 }
  const window = config.sliding_window ?? 4096
  const pattern = config.sliding_window_pattern ?? 6
  const types = layerTypes(
    {
      count: config.num_hidden_layers,
      listed: config.layer_types,
      known: ["full_attention", "sliding_attention"],
      otherwise: (layer) => ((layer + 1) % pattern === 0 ? "full_attention" : "sliding_attention"),
    },
    at,
  )
  const ropes = ropesOf(config, dimensions.headDim, at)
  return {
    architecture,
    hiddenSize: config.hidden_size,
    vocabSize: config.vocab_size ?? 262_208,
    maxPositions: config.max_position_embeddings ?? 131_072,
    embeddingScale: bf16(Math.sqrt(config.hidden_size)),
    logitSoftCap: config.final_logit_softcapping ?? 0,
    finalNorm: norm,
    tieWordEmbeddings: config.tie_word_embeddings ?? true,
    layers: types.map((type): LayerSpec => ({
      norm,
      postNorms: true,
      mixer: {
        kind: type === "full_attention" ? "full" : "sliding",
        window: type === "full_attention" ? 0 : window,
        ...dimensions,
        scale: 1 / Math.sqrt(config.query_pre_attn_scalar ?? 256),
        softCap: config.attn_logit_softcapping ?? 0,
        rope: type === "full_attention" ? ropes.full : ropes.sliding,
        qkNorm: norm,
        outputGate: false,
        bias: config.attention_bias === true ? "qkvo" : "none",
      },
      mlp: { kind: "gated", activation: "gelu", inner: config.intermediate_size, bias: false },
    })),
    eosTokenIds: tokenIds(config.eos_token_id ?? 1),
  }
}

/** Either thetas and the global layers' scaling apart, or settings by layer type in `rope_parameters`. */
const ropesOf = (config: Config, headDim: number, at: string) => {
  const { rope_parameters: parameters } = config
  const types = ["full_attention", "sliding_attention"]
  const stray = Object.keys(parameters ?? {}).find((key) => !types.includes(key))
  if (stray !== undefined) invalid(`${at}rope_parameters.${stray}`, `expected settings of ${types.join(" and ")}`)
  const full = ropeOfType(parameters, "full_attention", at)
  const sliding = ropeOfType(parameters, "sliding_attention", at)
  const partial = config.partial_rotary_factor ?? 1
  const global = { headDim, partial, theta: config.rope_theta ?? 1e6 }
  const local = { headDim, partial, theta: config.rope_local_base_freq ?? 1e4 }
  return {
    full: config.rope_scaling
      ? ropeFrom({ ...full, ...config.rope_scaling }, global, `${at}rope_scaling`)
      : ropeFrom(full, global, `${at}rope_parameters.full_attention`),
    sliding: ropeFrom(sliding, local, `${at}rope_parameters.sliding_attention`),
  }
}

/** Rounded to bf16, nearest even: the factor has the type of the weights. */
const bf16 = (value: number): number => {
  const bits = new Uint32Array(Float32Array.of(value).buffer)
  bits[0] = ((bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) >>> 16) << 16
  return new Float32Array(bits.buffer)[0]!
}

const tensors = (model: ModelSpec, present: ReadonlySet<string>): TensorNames => {
  // Published multimodal checkpoints, what transformers 5 calls the same, and a language model alone.
  const prefixes =
    model.architecture === multimodal
      ? ["language_model.model.", "model.language_model.", "language_model."]
      : ["model."]
  const prefix = prefixes.find((one) => present.has(`${one}embed_tokens.weight`)) ?? prefixes[0]!
  const heads = ["language_model.lm_head.weight", "lm_head.weight"]
  const head = heads.find((one) => present.has(one)) ?? "lm_head.weight"
  return {
    embedding: `${prefix}embed_tokens.weight`,
    finalNorm: `${prefix}norm.weight`,
    lmHead: model.tieWordEmbeddings ? `${prefix}embed_tokens.weight` : head,
    layers: model.layers.map(({ mixer }, layer) => {
      const at = `${prefix}layers.${layer}.`
      const attention = mixer.kind === "delta" ? null : attentionTensors(`${at}self_attn.`, mixer)
      return {
        inputNorm: `${at}input_layernorm.weight`,
        postAttentionNorm: `${at}post_attention_layernorm.weight`,
        mlpNorm: `${at}pre_feedforward_layernorm.weight`,
        postMlpNorm: `${at}post_feedforward_layernorm.weight`,
        ...attention?.weights,
        ...mlpTensors(`${at}mlp.`).weights,
        ...attention?.biases,
      }
    }),
    ignore: [
      "*.rotary_emb.inv_freq",
      ...(model.tieWordEmbeddings ? heads : []),
      ...(model.architecture === multimodal
        ? ["vision_tower.*", "multi_modal_projector.*", "model.vision_tower.*", "model.multi_modal_projector.*"]
        : []),
    ],
  }
}

export const gemma3: Family = { architectures: ["Gemma3ForCausalLM", multimodal], spec, tensors }
