import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import { eightBitMatrices, type Quantization } from "@uniprefill/model/EightBitMatrices"
import { attentionOf, convWidth, type LayerSpec, type ModelSpec } from "@uniprefill/model/ModelSpec"
import { embeddingParameters, layerParameters } from "@uniprefill/model/Parameters"
import { rankLayout } from "./RankLayout.ts"
import { rankSpec } from "./Shards.ts"

export interface RankMemoryOptions {
  readonly spec: ModelSpec
  readonly schedule: DropSchedule
  /** Bytes of all weights of the model as they are kept on the device, before any is rounded to eight bits. */
  readonly weightBytes: number
  /** Bytes of one weight. */
  readonly weightElementBytes: number
  /** `none` by default. */
  readonly quantization?: Quantization | undefined
  readonly pageSize: number
  readonly kvElementBytes: number
  readonly carryElementBytes: number
  readonly slots: number
  /** Copies of recurrent states beside those of the slots, for prefixes to be gone on from. */
  readonly snapshots?: number | undefined
  readonly maxRowsPerStep: number
  readonly maxModelLen: number
  /** What the device keeps for itself: context, library workspaces, fragmentation. */
  readonly reserveBytes: number
}

/** Bytes on one device, and what of them is left for slabs. */
export interface RankMemory {
  readonly weights: number
  readonly states: number
  /** Activations of the largest step, logits, and what a selection needs. */
  readonly workspace: number
  readonly reserve: number
  /** The layout of one rank: its KV heads, and its part of each carry row. Slab numbers are the same on all ranks. */
  readonly layout: KvLayout
}

/** What a rank's memory holds besides slabs. Requires: the model can be split into `ranks`. */
export const rankMemory = (options: RankMemoryOptions, ranks: number): RankMemory => {
  const { spec, schedule, slots, maxRowsPerStep, maxModelLen } = options
  const { hiddenSize, vocabSize } = spec
  const rank = rankSpec(spec, ranks)
  const layout = rankLayout(spec, ranks, schedule, options)

  // The residual stream and its sum are whole on every rank, as the logits are; the rest is split. All in 16 bits.
  const rowElements = 2 * hiddenSize + Math.max(...rank.layers.map(rowWidth))
  const activations = maxRowsPerStep * rowElements * 2
  const logits = slots * vocabSize * 4
  const blocks = Math.ceil(maxModelLen / schedule.block)
  const selection = schedule.dropLayers.length === 0 ? 0 : mostHeads(rank) * blocks * (8 + 4)
  return {
    weights: rankWeightBytes(options, ranks),
    states: layout.stateSlotBytes * (slots + (options.snapshots ?? 0)),
    workspace: Math.ceil(activations + logits + selection),
    reserve: options.reserveBytes,
    layout,
  }
}

/**
 * Weights on one rank. Requires: the model can be split into `ranks`. The layers are split evenly, but for the projections of KV
 * heads and of linear layers' key heads that several ranks hold; embedding and lm_head are whole on each.
 */
export const rankWeightBytes = (
  options: Pick<RankMemoryOptions, "spec" | "weightBytes" | "weightElementBytes" | "quantization">,
  ranks: number,
): number => {
  const { spec, weightBytes, weightElementBytes, quantization } = options
  const rank = rankSpec(spec, ranks)
  const shared = ({ layers }: ModelSpec) => {
    let parameters = 0
    for (const layer of layers) {
      const { kv, keys } = layerParameters(spec, layer)
      parameters += kv + keys
    }
    return parameters * weightElementBytes
  }
  const whole = embeddingParameters(spec) * weightElementBytes
  const bytes = Math.ceil((weightBytes - whole - shared(spec)) / ranks + whole + shared(rank))
  return quantization === "fp8" ? bytes - savedByEightBits(rank, weightElementBytes) : bytes
}

/** A matrix in eight bits has a scale in 32 for every row. */
const savedByEightBits = (rank: ModelSpec, weightElementBytes: number): number => {
  let saved = 0
  for (const layer of rank.layers) {
    for (const [rows, columns] of eightBitMatrices(rank, layer))
      saved += rows * (columns * (weightElementBytes - 1) - 4)
  }
  return saved
}

/** Elements of a row between a layer's projections: q, k and v, then the MLP's inner layer. */
const rowWidth = ({ mixer, mlp }: LayerSpec): number => {
  const mixed =
    mixer.kind === "delta"
      ? convWidth(mixer) + mixer.valueHeads * mixer.valueDim
      : (mixer.heads + 2 * mixer.kvHeads) * mixer.headDim
  return mixed + 3 * (mlp.kind === "moe" ? mlp.topK * mlp.inner + mlp.sharedInner : mlp.inner)
}

const mostHeads = ({ layers }: ModelSpec): number =>
  layers.reduce((most, layer) => Math.max(most, attentionOf(layer)?.heads ?? 0), 0)
