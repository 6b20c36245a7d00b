import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import type { LayerSpec, ModelSpec } from "@uniprefill/model/ModelSpec"

const full: LayerSpec = { kind: "full", window: 0 }
const sliding = (window: number): LayerSpec => ({ kind: "sliding", window })
const state: LayerSpec = { kind: "state", window: 0 }

export const specOf = (layers: ReadonlyArray<LayerSpec>, over: Partial<ModelSpec> = {}): ModelSpec => ({
  architecture: "LlamaForCausalLM",
  hiddenSize: 256,
  intermediateSize: 640,
  vocabSize: 4096,
  maxPositions: 131_072,
  heads: 4,
  kvHeads: 2,
  headDim: 64,
  attentionScale: 0.125,
  attentionSoftCap: 0,
  normEps: 1e-5,
  tieWordEmbeddings: true,
  attentionBias: false,
  mlpBias: false,
  rope: { theta: 1e6, scaling: { type: "none" } },
  layers,
  stateBytesPerLayer: layers.some((layer) => layer.kind === "state") ? 4096 : 0,
  eosTokenIds: [1],
  ...over,
})

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
