import type { ModelSpec } from "@uniprefill/model/ModelSpec"

/** A ModelSpec and what else the cost of a step depends on. */
export interface ModelShape {
  readonly spec: ModelSpec
  /** Replaces the dense MLP in every layer. */
  readonly experts: ExpertShape | null
  /** Layers of kind `state`. */
  readonly linear: LinearShape | null
  /** Full-attention layers project a gate as wide as their queries. */
  readonly gatedAttention: boolean
  /** Bytes of a weight. */
  readonly weightBytes: number
  /** Bytes of an element of K or V. */
  readonly kvBytes: number
}

export interface ExpertShape {
  readonly count: number
  /** Experts that a row passes. */
  readonly active: number
  readonly width: number
  /** Width of the expert that every row passes; 0 without one. */
  readonly sharedWidth: number
}

/** Gated DeltaNet. */
export interface LinearShape {
  readonly keyHeads: number
  readonly valueHeads: number
  readonly headDim: number
}

/** A model without experts and recurrences, in 16-bit weights and K/V. */
export const denseShape = (spec: ModelSpec): ModelShape => ({
  spec,
  experts: null,
  linear: null,
  gatedAttention: false,
  weightBytes: 2,
  kvBytes: 2,
})

/** Parameters of one layer, split by what has to be computed for a row. */
export interface LayerParameters {
  /** K and V projections of an attention layer: what an exit drop layer computes of its rows. */
  readonly kv: number
  /** Everything else that every row passes. */
  readonly rest: number
  /** One expert; 0 without experts. */
  readonly expert: number
}

export const layerParameters = (shape: ModelShape, layer: number): LayerParameters => {
  const { spec, experts, linear } = shape
  const { hiddenSize, heads, kvHeads, headDim, intermediateSize } = spec
  const mlp =
    experts === null
      ? 3 * hiddenSize * intermediateSize
      : hiddenSize * experts.count + 3 * hiddenSize * experts.sharedWidth
  const expert = experts === null ? 0 : 3 * hiddenSize * experts.width
  if (spec.layers[layer]!.kind === "state") {
    if (linear === null) throw new RangeError(`layer ${layer} is recurrent and the model's shape has no recurrence`)
    const { keyHeads, valueHeads, headDim: dim } = linear
    // q, k, v and z; b and a; the output projection.
    const projections =
      hiddenSize * (2 * keyHeads * dim + 2 * valueHeads * dim + 2 * valueHeads) + valueHeads * dim * hiddenSize
    return { kv: 0, rest: projections + mlp, expert }
  }
  const queries = hiddenSize * heads * headDim
  return {
    kv: 2 * hiddenSize * kvHeads * headDim,
    rest: (shape.gatedAttention ? 3 : 2) * queries + mlp,
    expert,
  }
}

/** Bytes of all weights, embeddings included. */
export const weightBytes = (shape: ModelShape): number => {
  const { spec, experts } = shape
  let parameters = spec.hiddenSize * spec.vocabSize * (spec.tieWordEmbeddings ? 1 : 2)
  for (let layer = 0; layer < spec.layers.length; layer++) {
    const { kv, rest, expert } = layerParameters(shape, layer)
    parameters += kv + rest + expert * (experts?.count ?? 0)
  }
  return parameters * shape.weightBytes
}
