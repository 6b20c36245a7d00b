import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { type KvLayout, makeKvLayout } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { kvHeadsPerRank } from "./Shards.ts"

export interface RankMemoryOptions {
  readonly spec: ModelSpec
  readonly schedule: DropSchedule
  /** Bytes of all weights of the model, as they are kept on the device. */
  readonly weightBytes: number
  /** Bytes of one weight. */
  readonly weightElementBytes: number
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
  const { spec, schedule, weightBytes, weightElementBytes, slots, maxRowsPerStep, maxModelLen } = options
  const { hiddenSize, heads, headDim, intermediateSize, vocabSize } = spec
  const kvHeads = kvHeadsPerRank(spec, ranks)
  // Weights are split evenly, but for the K and V projections of heads that several ranks hold.
  const attention = spec.layers.filter((layer) => layer.kind !== "state").length
  const kvWeight = (count: number) => attention * 2 * hiddenSize * count * headDim * weightElementBytes
  const weights = Math.ceil((weightBytes - kvWeight(spec.kvHeads)) / ranks + kvWeight(kvHeads))
  const layout = makeKvLayout({ ...spec, kvHeads, hiddenSize: hiddenSize / ranks }, schedule, options)

  // The residual stream and its sum are whole on every rank; the rest is split. All in 16 bits.
  const rowElements = 2 * hiddenSize + ((heads + 2 * spec.kvHeads) * headDim) / ranks + (3 * intermediateSize) / ranks
  const activations = maxRowsPerStep * rowElements * 2
  const logits = (slots * vocabSize * 4) / ranks
  const blocks = Math.ceil(maxModelLen / schedule.block)
  const selection = schedule.dropLayers.length === 0 ? 0 : (heads / ranks) * blocks * (8 + 4)
  return {
    weights,
    states: Math.ceil((layout.stateSlotBytes * (slots + (options.snapshots ?? 0))) / ranks),
    workspace: Math.ceil(activations + logits + selection),
    reserve: options.reserveBytes,
    layout,
  }
}
