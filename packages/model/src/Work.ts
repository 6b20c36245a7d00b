import type { KvLayout } from "./KvLayout.ts"
import type { ModelSpec } from "./ModelSpec.ts"

/**
 * Floating-point operations and bytes of a segment, counted as multiply-adds × 2, embeddings and norms left out.
 *
 * Segment i computes, per row: at its entry drop layer (i > 0) everything but K and V; its inner layers entirely; at its
 * exit drop layer K and V alone. The model's last layer computes K and V alone but for the rows that are sampled.
 */
export interface SegmentWork {
  /** Matrix products of one prefill row. */
  readonly rowFlops: number
  /** One (query, key) pair in all of the segment's own full-attention layers that its rows attend in. */
  readonly pairFlops: number
  /** One pair at the entry drop layer, over the previous segment's keys; 0 for segment 0. */
  readonly entryPairFlops: number
  /** One pair scored by the selection after the segment (Q·K alone); 0 for the last segment. */
  readonly scorePairFlops: number
  /** Weights that its prefill rows read. */
  readonly weightBytes: number
  /** Matrix products of one decode row in the layers whose K/V the segment holds. */
  readonly decodeRowFlops: number
  /** Weights of those layers. */
  readonly decodeWeightBytes: number
  /** K/V that a decode row reads for each key, all of the segment's full-attention layers together. */
  readonly decodeKeyBytes: number
  /** Attention of a decode row for each of those keys. */
  readonly decodePairFlops: number
}

/** Work of every segment; the unembedding counts as one row's work of the last one. */
export const segmentWork = (
  spec: ModelSpec,
  layout: KvLayout,
  bytes: { readonly weight: number; readonly kv: number },
): ReadonlyArray<SegmentWork> => {
  const { hiddenSize, intermediateSize, heads, kvHeads, headDim } = spec
  const kvParameters = 2 * hiddenSize * kvHeads * headDim
  const restParameters = 2 * hiddenSize * heads * headDim + 3 * hiddenSize * intermediateSize
  const pair = 4 * heads * headDim
  const isFull = (layer: number) => spec.layers[layer]!.kind === "full"
  const finalLayer = spec.layers.length - 1
  return layout.segments.map(({ firstLayer, lastLayer }, segment) => {
    const layers = lastLayer - firstLayer + 1
    // The segment's last layer is an exit drop layer, or the model's last layer, which is trimmed.
    const inner = layers - 1
    const entry = segment === 0 ? 0 : 1
    let attending = 0
    let full = 0
    for (let layer = firstLayer; layer <= lastLayer; layer++) {
      if (!isFull(layer)) continue
      full++
      if (layer !== lastLayer) attending++
    }
    const parameters = (inner + 1) * kvParameters + (inner + entry) * restParameters
    const decodeParameters =
      layers * (kvParameters + restParameters) + (lastLayer === finalLayer ? hiddenSize * spec.vocabSize : 0)
    return {
      rowFlops: 2 * parameters,
      pairFlops: attending * pair,
      entryPairFlops: entry * pair,
      scorePairFlops: lastLayer === finalLayer ? 0 : pair / 2,
      weightBytes: parameters * bytes.weight,
      decodeRowFlops: 2 * decodeParameters,
      decodeWeightBytes: decodeParameters * bytes.weight,
      decodeKeyBytes: full * 2 * kvHeads * headDim * bytes.kv,
      decodePairFlops: full * pair,
    }
  })
}
