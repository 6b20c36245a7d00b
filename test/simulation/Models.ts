import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import type { AttentionSpec, LayerSpec, ModelSpec } from "@uniprefill/model/ModelSpec"

const base = readModelConfig("config.json", {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 256,
  intermediate_size: 640,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 4096,
  max_position_embeddings: 131_072,
  rms_norm_eps: 1e-5,
  rope_theta: 1e6,
  tie_word_embeddings: true,
  eos_token_id: 1,
}).spec

export const full: LayerSpec = base.layers[0]!
export const sliding = (window: number): LayerSpec => ({
  ...full,
  mixer: { ...(full.mixer as AttentionSpec), kind: "sliding", window },
})
/** A recurrence with a state of a few KB. */
export const state: LayerSpec = {
  ...full,
  mixer: {
    kind: "delta",
    keyHeads: 2,
    valueHeads: 4,
    keyDim: 16,
    valueDim: 16,
    convKernel: 4,
    grouped: false,
    normaliseInput: "float",
    normEps: 1e-5,
  },
}

export const specOf = (layers: ReadonlyArray<LayerSpec>): ModelSpec => ({ ...base, layers })

/** Sixteen full-attention layers, the shape of the embedded model. */
export const deepSpec = specOf(Array.from({ length: 16 }, () => full))
export const deepSchedule: DropSchedule = {
  ...denseSchedule,
  dropLayers: [7, 10, 13].map((layer) => ({ layer, p: 0.9 })),
}

/** Full, sliding and recurrent layers together. */
export const hybridSpec = specOf([
  sliding(512),
  full,
  state,
  sliding(512),
  full,
  state,
  state,
  full,
  sliding(512),
  state,
  full,
  full,
])
export const hybridSchedule: DropSchedule = {
  ...denseSchedule,
  dropLayers: [4, 7].map((layer) => ({ layer, p: 0.9 })),
}
