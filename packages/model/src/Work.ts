import type { KvLayout } from "./KvLayout.ts"
import { attentionOf, kvWidth, type ModelSpec } from "./ModelSpec.ts"
import { layerParameters } from "./Parameters.ts"

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
  const finalLayer = spec.layers.length - 1
  const parametersOf = spec.layers.map((layer) => {
    const { kv, mixer, mlp, expert, topK } = layerParameters(spec, layer)
    return { kv, rest: mixer + mlp + topK * expert }
  })
  const fullOf = spec.layers.map((layer) => {
    const attention = attentionOf(layer)
    return attention?.kind === "full" ? attention : null
  })
  const pairOf = (layer: number) => 4 * (fullOf[layer]?.heads ?? 0) * (fullOf[layer]?.headDim ?? 0)
  return layout.segments.map(({ firstLayer, lastLayer }, segment) => {
    let parameters = segment === 0 ? 0 : parametersOf[firstLayer - 1]!.rest
    let decodeParameters = lastLayer === finalLayer ? spec.hiddenSize * spec.vocabSize : 0
    let pairs = 0
    let decodePairs = 0
    let keys = 0
    // The segment's last layer is an exit drop layer, or the model's last layer, which is trimmed.
    for (let layer = firstLayer; layer <= lastLayer; layer++) {
      const { kv, rest } = parametersOf[layer]!
      const full = fullOf[layer]!
      parameters += kv + (layer === lastLayer ? 0 : rest)
      decodeParameters += kv + rest
      if (layer !== lastLayer) pairs += pairOf(layer)
      decodePairs += pairOf(layer)
      keys += full === null ? 0 : 2 * kvWidth(full)
    }
    return {
      rowFlops: 2 * parameters,
      pairFlops: pairs,
      entryPairFlops: segment === 0 ? 0 : pairOf(firstLayer - 1),
      scorePairFlops: lastLayer === finalLayer ? 0 : pairOf(lastLayer) / 2,
      weightBytes: parameters * bytes.weight,
      decodeRowFlops: 2 * decodeParameters,
      decodeWeightBytes: decodeParameters * bytes.weight,
      decodeKeyBytes: keys * bytes.kv,
      decodePairFlops: decodePairs,
    }
  })
}
