import { convWidth, type LayerSpec, type MixerSpec, type MlpSpec, type ModelSpec, type NormSpec } from "./ModelSpec.ts"

/** Parameters of a layer's matrices, by what has to be computed for a row. Norms, biases and convolutions are `small`. */
export interface LayerParameters {
  /** K and V projections: what an exit drop layer computes of its rows; 0 in a recurrent layer. */
  readonly kv: number
  /** The rest of the mixer. */
  readonly mixer: number
  /** Of it, q and k of a recurrent layer, which are projected by key heads; 0 in an attention layer. */
  readonly keys: number
  /** What every row passes of the MLP: all of a dense one; router and shared expert otherwise. */
  readonly mlp: number
  /** One expert; 0 without experts. */
  readonly expert: number
  /** Experts of the layer, and how many a row passes. */
  readonly experts: number
  readonly topK: number
  readonly small: number
}

export const layerParameters = ({ hiddenSize }: Pick<ModelSpec, "hiddenSize">, layer: LayerSpec): LayerParameters => {
  const { kv, rest, keys, small } = mixerParameters(hiddenSize, layer.mixer)
  const norms = (layer.postNorms ? 4 : 2) * hiddenSize
  return {
    kv,
    mixer: rest,
    keys,
    ...mlpParameters(hiddenSize, layer.mlp),
    small: small + norms + mlpBiases(hiddenSize, layer.mlp),
  }
}

/** Embedding and lm_head: one matrix where they are tied. */
export const embeddingParameters = ({ hiddenSize, vocabSize, tieWordEmbeddings }: ModelSpec): number =>
  hiddenSize * vocabSize * (tieWordEmbeddings ? 1 : 2)

/** Parameters of the whole model, embeddings included. */
export const parameterCount = (spec: ModelSpec): number => {
  let sum = embeddingParameters(spec) + spec.hiddenSize
  for (const layer of spec.layers) {
    const { kv, mixer, mlp, expert, experts, small } = layerParameters(spec, layer)
    sum += kv + mixer + mlp + expert * experts + small
  }
  return sum
}

const mixerParameters = (hiddenSize: number, mixer: MixerSpec) => {
  if (mixer.kind === "delta") {
    const { keyHeads, valueHeads, keyDim, valueDim, convKernel } = mixer
    // q, k, v and z; b and a; the output projection.
    const keys = hiddenSize * 2 * keyHeads * keyDim
    const rest = keys + hiddenSize * (3 * valueHeads * valueDim + 2 * valueHeads)
    return { kv: 0, rest, keys, small: convKernel * convWidth(mixer) + 2 * valueHeads + valueDim }
  }
  const { heads, kvHeads, headDim, outputGate, qkNorm, bias } = mixer
  const queries = heads * headDim * (outputGate ? 2 : 1)
  const keyWidth = kvHeads * headDim
  const biases = bias === "none" ? 0 : queries + 2 * keyWidth + (bias === "qkvo" ? hiddenSize : 0)
  return {
    kv: 2 * hiddenSize * keyWidth,
    rest: hiddenSize * (queries + heads * headDim),
    keys: 0,
    small: biases + normParameters(qkNorm, 2 * headDim),
  }
}

const normParameters = (norm: NormSpec | null, width: number): number => (norm === null ? 0 : width)

const mlpParameters = (hiddenSize: number, mlp: MlpSpec) => {
  if (mlp.kind === "gated") return { mlp: 3 * hiddenSize * mlp.inner, expert: 0, experts: 0, topK: 0 }
  const { experts, topK, inner, sharedInner } = mlp
  const shared = sharedInner === 0 ? 0 : 3 * hiddenSize * sharedInner + hiddenSize
  return { mlp: hiddenSize * experts + shared, expert: 3 * hiddenSize * inner, experts, topK }
}

const mlpBiases = (hiddenSize: number, mlp: MlpSpec): number =>
  mlp.kind === "gated" && mlp.bias ? 2 * mlp.inner + hiddenSize : 0
