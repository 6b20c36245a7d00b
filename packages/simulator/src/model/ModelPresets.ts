import { denseShape, type ModelShape } from "@uniprefill/cost-model/ModelShape"
import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import type { LayerSpec, ModelSpec } from "@uniprefill/model/ModelSpec"
import { schedulePresets } from "@uniprefill/model/SchedulePresets"

export interface ModelPreset {
  readonly name: string
  readonly shape: ModelShape
  /** The paper's schedule; dense where it names none. */
  readonly schedule: DropSchedule
}

const full: LayerSpec = { kind: "full", window: 0 }
const state: LayerSpec = { kind: "state", window: 0 }

const llama = (over: Partial<ModelSpec> & { readonly layerCount: number }): ModelSpec => {
  const { layerCount, ...fields } = over
  return {
    architecture: "LlamaForCausalLM",
    hiddenSize: 4096,
    intermediateSize: 14_336,
    vocabSize: 128_256,
    maxPositions: 131_072,
    heads: 32,
    kvHeads: 8,
    headDim: 128,
    attentionScale: 1 / Math.sqrt(128),
    attentionSoftCap: 0,
    normEps: 1e-5,
    tieWordEmbeddings: false,
    attentionBias: false,
    mlpBias: false,
    rope: {
      theta: 500_000,
      scaling: { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 8192 },
    },
    layers: Array.from({ length: layerCount }, () => full),
    stateBytesPerLayer: 0,
    eosTokenIds: [128_001, 128_008, 128_009],
    ...fields,
  }
}

/** Every sixth layer sees everything, the others a window of 1,024 rows. */
const gemma: ModelSpec = llama({
  architecture: "Gemma3ForConditionalGeneration",
  hiddenSize: 3840,
  intermediateSize: 15_360,
  vocabSize: 262_208,
  heads: 16,
  kvHeads: 8,
  headDim: 256,
  attentionScale: 1 / 16,
  normEps: 1e-6,
  tieWordEmbeddings: true,
  rope: { theta: 1_000_000, scaling: { type: "linear", factor: 8 } },
  layers: Array.from({ length: 48 }, (_, i): LayerSpec =>
    (i + 1) % 6 === 0 ? full : { kind: "sliding", window: 1024 },
  ),
  eosTokenIds: [1, 106],
  layerCount: 48,
})

/** Every fourth layer sees everything, the others are Gated DeltaNet with 32 states of 128 × 128 in f32. */
const qwen: ModelSpec = llama({
  architecture: "Qwen3NextForCausalLM",
  hiddenSize: 2048,
  intermediateSize: 5120,
  vocabSize: 151_936,
  maxPositions: 262_144,
  heads: 16,
  kvHeads: 2,
  headDim: 256,
  attentionScale: 1 / 16,
  normEps: 1e-6,
  rope: { theta: 10_000_000, scaling: { type: "none" } },
  layers: Array.from({ length: 48 }, (_, i) => ((i + 1) % 4 === 0 ? full : state)),
  // The states, and three columns of the convolution over q, k and v.
  stateBytesPerLayer: 32 * 128 * 128 * 4 + 3 * (2 * 16 + 32) * 128 * 2,
  eosTokenIds: [151_645],
  layerCount: 48,
})

const preset = (name: string, shape: ModelShape): ModelPreset => ({
  name,
  shape,
  schedule: schedulePresets.get(name) ?? denseSchedule,
})

/** Models by name. */
export const modelPresets: ReadonlyMap<string, ModelPreset> = new Map(
  [
    preset("llama-3.1-8b", denseShape(llama({ layerCount: 32 }))),
    preset(
      "llama-3.1-70b",
      denseShape(llama({ hiddenSize: 8192, intermediateSize: 28_672, heads: 64, layerCount: 80 })),
    ),
    preset("gemma-3-12b", denseShape(gemma)),
    preset("qwen3-next-80b-a3b", {
      ...denseShape(qwen),
      experts: { count: 512, active: 10, width: 512, sharedWidth: 512 },
      linear: { keyHeads: 16, valueHeads: 32, headDim: 128 },
      gatedAttention: true,
    }),
  ].map((one) => [one.name, one]),
)
