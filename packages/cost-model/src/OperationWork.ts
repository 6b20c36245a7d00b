import type { KvLayout } from "@uniprefill/model/KvLayout"
import {
  type AttentionSpec,
  type DeltaSpec,
  deltaStateBytes,
  kvWidth,
  type LayerSpec,
  type ModelSpec,
} from "@uniprefill/model/ModelSpec"
import { layerParameters } from "@uniprefill/model/Parameters"
import { expertsOf, type ModelShape } from "./ModelShape.ts"

/**
 * Operations and bytes of a segment for one rank of a tensor-parallel group, by kind of operation. Multiply-adds count
 * as two operations.
 *
 * Segment i computes, per prefill row: at its entry drop layer (i > 0) everything but K and V; its inner layers entirely;
 * at its exit drop layer K and V alone. The model's last layer computes K and V alone but for the rows that are sampled.
 */
export interface OperationWork {
  /** Matrix products of a prefill row, the experts it passes included. */
  readonly rowFlops: number
  /** Weights that prefill rows read whatever their number. */
  readonly rowWeightBytes: number
  /** One expert of every layer that prefill rows pass. */
  readonly rowExpertBytes: number
  /** Activations read and written by what is not a matrix product. */
  readonly rowElementBytes: number
  /** A (query, key) pair in all of the segment's own full-attention layers in which its rows attend. */
  readonly pairFlops: number
  /** A pair at the entry drop layer, over the previous segment's keys. */
  readonly entryPairFlops: number
  /** A pair scored by the selection after the segment: Q·K alone, in the two passes that a softmax takes. */
  readonly scorePairFlops: number
  /** A (query, key) pair in all of the segment's sliding layers. */
  readonly windowPairFlops: number
  /** The linear recurrence of a row. */
  readonly recurrenceRowFlops: number
  readonly decodeRowFlops: number
  readonly decodeWeightBytes: number
  readonly decodeExpertBytes: number
  /** K/V that a decode row reads for each key it sees in full-attention layers. */
  readonly decodeKeyBytes: number
  /** Attention of a decode row for each of those keys. */
  readonly decodePairFlops: number
  /** The same for each key within the window of sliding layers. */
  readonly decodeWindowKeyBytes: number
  readonly decodeWindowPairFlops: number
  /** The linear recurrence of a decode row. */
  readonly decodeRecurrenceFlops: number
  /** Recurrent state that a decode row reads and writes. */
  readonly decodeRowBytes: number
  /** Experts of the layers that have any, and how many a row passes; 0 without experts. */
  readonly experts: number
  readonly topK: number
  /** Layers whose K/V the segment holds. */
  readonly layers: number
  /** All-reduces between ranks that prefill rows take part in, and decode rows; 0 for one rank. */
  readonly rowReductions: number
  readonly decodeReductions: number
  /** Bytes of a row in each of them. */
  readonly reductionRowBytes: number
}

/** `ranks`: devices of the tensor-parallel group. K/V heads and a linear layer's key heads are replicated where fewer than ranks. */
export const operationWork = (shape: ModelShape, layout: KvLayout, ranks: number): ReadonlyArray<OperationWork> => {
  const { spec } = shape
  const finalLayer = spec.layers.length - 1
  const { experts, topK } = expertsOf(spec)
  const works = spec.layers.map((layer) => layerWork(shape, layer, ranks))

  return layout.segments.map(({ firstLayer, lastLayer }, segment): OperationWork => {
    const sum = { parameters: 0, experts: 0, active: 0, elements: 0, pairs: 0, windowPairs: 0, recurrence: 0 }
    const decode = { parameters: 0, experts: 0, active: 0, keyBytes: 0, pairs: 0, rowBytes: 0, recurrence: 0 }
    const window = { keyBytes: 0, pairs: 0 }
    let reductions = 0
    for (let layer = firstLayer; layer <= lastLayer; layer++) {
      const work = works[layer]!
      decode.parameters += work.kv + work.rest
      decode.experts += work.expert
      decode.active += work.active
      decode.keyBytes += work.keyBytes
      decode.pairs += work.pair
      decode.rowBytes += work.decodeRowBytes
      window.keyBytes += work.windowKeyBytes
      window.pairs += work.windowPair
      decode.recurrence += work.recurrence
    }
    // The entry layer was the previous segment's last layer, which computed K and V.
    for (let layer = segment === 0 ? firstLayer : firstLayer - 1; layer <= lastLayer; layer++) {
      const work = works[layer]!
      const isEntry = layer < firstLayer
      if (!isEntry) sum.parameters += work.kv
      if (layer === lastLayer && spec.layers[layer]!.mixer.kind !== "delta") continue
      sum.parameters += work.rest
      sum.experts += work.expert
      sum.active += work.active
      sum.elements += work.elements
      reductions += 2
      sum.windowPairs += work.windowPair
      sum.recurrence += work.recurrence
      if (!isEntry) sum.pairs += work.pair
    }
    const layers = lastLayer - firstLayer + 1
    // Whole on every rank, as the embedding is.
    const head = lastLayer === finalLayer ? spec.hiddenSize * spec.vocabSize : 0
    return {
      rowFlops: 2 * (sum.parameters + sum.active),
      rowWeightBytes: sum.parameters * (shape.matrixBytes ?? shape.weightBytes),
      rowExpertBytes: sum.experts * shape.weightBytes,
      rowElementBytes: sum.elements * 2,
      pairFlops: sum.pairs,
      entryPairFlops: segment === 0 ? 0 : works[firstLayer - 1]!.pair,
      scorePairFlops: lastLayer === finalLayer ? 0 : works[lastLayer]!.pair,
      windowPairFlops: sum.windowPairs,
      recurrenceRowFlops: sum.recurrence,
      decodeRowFlops: 2 * (decode.parameters + decode.active + head),
      decodeWeightBytes: decode.parameters * (shape.matrixBytes ?? shape.weightBytes) + head * shape.weightBytes,
      decodeExpertBytes: decode.experts * shape.weightBytes,
      decodeKeyBytes: decode.keyBytes,
      decodePairFlops: decode.pairs,
      decodeWindowKeyBytes: window.keyBytes,
      decodeWindowPairFlops: window.pairs,
      decodeRecurrenceFlops: decode.recurrence,
      decodeRowBytes: decode.rowBytes,
      experts,
      topK,
      layers,
      rowReductions: ranks === 1 ? 0 : reductions,
      decodeReductions: ranks === 1 ? 0 : 2 * layers,
      reductionRowBytes: spec.hiddenSize * 2,
    }
  })
}

/** What one layer takes on one rank. Weights in parameters, `active` those of the experts that a row passes. */
interface LayerWork {
  readonly kv: number
  readonly rest: number
  readonly expert: number
  readonly active: number
  readonly elements: number
  /** Of full attention. */
  readonly pair: number
  readonly keyBytes: number
  /** Of sliding attention. */
  readonly windowPair: number
  readonly windowKeyBytes: number
  readonly recurrence: number
  readonly decodeRowBytes: number
}

const layerWork = (shape: ModelShape, layer: LayerSpec, ranks: number): LayerWork => {
  const { spec } = shape
  const { kv, mixer, keys, mlp, expert, topK } = layerParameters(spec, layer)
  const rest = (mixer - keys + mlp) / ranks
  const base = {
    rest,
    expert: expert / ranks,
    active: (topK * expert) / ranks,
    elements: elementsOf(spec, layer) / ranks,
  }
  const none = { pair: 0, keyBytes: 0, windowPair: 0, windowKeyBytes: 0, recurrence: 0, decodeRowBytes: 0 }
  if (layer.mixer.kind === "delta") {
    const { keyHeads, valueHeads } = layer.mixer
    const share = 1 / Math.min(ranks, keyHeads)
    const own = { ...layer.mixer, keyHeads: keyHeads * share, valueHeads: valueHeads / ranks }
    const recurrence = recurrenceFlops(own)
    return {
      ...base,
      ...none,
      rest: rest + keys * share,
      kv: 0,
      recurrence,
      decodeRowBytes: 2 * deltaStateBytes(own, 2),
    }
  }
  const attention = layer.mixer
  const share = 1 / Math.min(ranks, attention.kvHeads)
  const pair = pairFlops(attention) / ranks
  const keyBytes = 2 * kvWidth(attention) * shape.kvBytes * share
  const own = attention.kind === "full" ? { pair, keyBytes } : { windowPair: pair, windowKeyBytes: keyBytes }
  return { ...base, ...none, kv: kv * share, ...own }
}

/** Q·K and the weighted sum of V. */
const pairFlops = ({ heads, headDim }: AttentionSpec): number => 4 * heads * headDim

/** Elements that a row reads and writes outside of matrix products: two norms and two residual additions, and the MLP's gate. */
const elementsOf = ({ hiddenSize }: ModelSpec, { mixer, mlp }: LayerSpec): number => {
  const width = mlp.kind === "gated" ? mlp.inner : mlp.topK * mlp.inner + mlp.sharedInner
  const mixed =
    mixer.kind === "delta" ? 6 * mixer.valueHeads * mixer.valueDim : 2 * (mixer.heads + mixer.kvHeads) * mixer.headDim
  return 6 * hiddenSize + 3 * width + mixed
}

/** The chunked form: state update and read-out, and the products inside a chunk of 64 rows. */
const recurrenceFlops = ({ valueHeads, keyDim, valueDim }: DeltaSpec): number =>
  valueHeads * (4 * keyDim * valueDim + 4 * 64 * valueDim)
