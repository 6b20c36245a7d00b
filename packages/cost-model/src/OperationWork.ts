import type { KvLayout } from "@uniprefill/model/KvLayout"
import { layerParameters, type ModelShape } from "./ModelShape.ts"

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
  /** Sliding-window attention of a row that sees a whole window. */
  readonly slidingRowFlops: number
  /** The linear recurrence of a row. */
  readonly recurrenceRowFlops: number
  readonly decodeRowFlops: number
  readonly decodeWeightBytes: number
  readonly decodeExpertBytes: number
  /** K/V that a decode row reads for each key it sees in full-attention layers. */
  readonly decodeKeyBytes: number
  /** Attention of a decode row for each of those keys. */
  readonly decodePairFlops: number
  /** Sliding K/V and recurrent state that a decode row reads and writes. */
  readonly decodeRowBytes: number
  /** All-reduces of a row between ranks, in bytes that leave a rank; 0 for one rank. */
  readonly rowLinkBytes: number
  readonly decodeLinkBytes: number
  /** All-reduces of a step. */
  readonly reductions: number
}

/** `ranks`: devices of the tensor-parallel group. K/V heads are replicated where there are fewer of them than ranks. */
export const operationWork = (shape: ModelShape, layout: KvLayout, ranks: number): ReadonlyArray<OperationWork> => {
  const { spec, experts, linear } = shape
  const { hiddenSize, heads, kvHeads, headDim } = spec
  const kvShare = 1 / Math.min(ranks, kvHeads)
  const pair = (4 * heads * headDim) / ranks
  const active = experts?.active ?? 0
  const finalLayer = spec.layers.length - 1
  const reduction = ranks === 1 ? 0 : (2 * (ranks - 1) * hiddenSize * 2) / ranks

  return layout.segments.map(({ firstLayer, lastLayer }, segment): OperationWork => {
    const work = { parameters: 0, expertParameters: 0, decode: 0, decodeExperts: 0, elements: 0 }
    let fullInner = 0
    let full = 0
    let slidingRow = 0
    let recurrence = 0
    let decodeRowBytes = 0
    let rowReductions = 0
    // The entry layer was the previous segment's last layer.
    for (let layer = segment === 0 ? firstLayer : firstLayer - 1; layer <= lastLayer; layer++) {
      const { kind, window } = spec.layers[layer]!
      const { kv, rest, expert } = layerParameters(shape, layer)
      const isEntry = layer < firstLayer
      const isExit = layer === lastLayer
      if (!isEntry) {
        work.decode += kv * kvShare + rest / ranks
        work.decodeExperts += expert / ranks
        if (kind === "full") full++
        if (kind === "sliding") decodeRowBytes += window * 2 * kvHeads * headDim * shape.kvBytes * kvShare
        if (kind === "state") decodeRowBytes += (2 * spec.stateBytesPerLayer) / ranks
      }
      if (isExit && kind !== "state") {
        work.parameters += kv * kvShare
        continue
      }
      work.parameters += (isEntry ? 0 : kv * kvShare) + rest / ranks
      work.expertParameters += expert / ranks
      work.elements += elementsOf(shape, kind === "state") / ranks
      rowReductions += 2
      if (kind === "full" && !isEntry) fullInner++
      if (kind === "sliding") slidingRow += window * pair
      if (kind === "state") recurrence += linear === null ? 0 : recurrenceFlops(linear) / ranks
    }
    const layers = lastLayer - firstLayer + 1
    const head = lastLayer === finalLayer ? (hiddenSize * spec.vocabSize) / ranks : 0
    return {
      rowFlops: 2 * (work.parameters + active * work.expertParameters),
      rowWeightBytes: work.parameters * shape.weightBytes,
      rowExpertBytes: work.expertParameters * shape.weightBytes,
      rowElementBytes: work.elements * 2,
      pairFlops: fullInner * pair,
      entryPairFlops: segment === 0 ? 0 : pair,
      scorePairFlops: lastLayer === finalLayer ? 0 : pair,
      slidingRowFlops: slidingRow,
      recurrenceRowFlops: recurrence,
      decodeRowFlops: 2 * (work.decode + active * work.decodeExperts + head),
      decodeWeightBytes: (work.decode + head) * shape.weightBytes,
      decodeExpertBytes: work.decodeExperts * shape.weightBytes,
      decodeKeyBytes: full * 2 * kvHeads * headDim * shape.kvBytes * kvShare,
      decodePairFlops: full * pair,
      decodeRowBytes,
      rowLinkBytes: rowReductions * reduction,
      decodeLinkBytes: 2 * layers * reduction,
      reductions: ranks === 1 ? 0 : 2 * layers,
    }
  })
}

/** Elements that a row reads and writes outside of matrix products: two norms and two residual additions, and the MLP's gate. */
const elementsOf = (shape: ModelShape, recurrent: boolean): number => {
  const { spec, experts, linear } = shape
  const width = experts === null ? spec.intermediateSize : experts.active * experts.width + experts.sharedWidth
  const mixer =
    recurrent && linear !== null
      ? 6 * linear.valueHeads * linear.headDim
      : 2 * (spec.heads + spec.kvHeads) * spec.headDim
  return 6 * spec.hiddenSize + 3 * width + mixer
}

/** The chunked form: state update and read-out, and the products inside a chunk of 64 rows. */
const recurrenceFlops = ({ valueHeads, headDim }: { valueHeads: number; headDim: number }): number =>
  valueHeads * (4 * headDim * headDim + 4 * 64 * headDim)
