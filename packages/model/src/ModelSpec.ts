/**
 * A model as a table of layers: what runners compute from, and what memory, cost and placement count. Made from a
 * config.json by one of the families; the native library gets the same table as JSON (`ModelTable`).
 */
export interface ModelSpec {
  /** The Hugging Face architecture name, `LlamaForCausalLM`. */
  readonly architecture: string
  readonly hiddenSize: number
  readonly vocabSize: number
  /** Longest sequence the model was made for, in tokens. */
  readonly maxPositions: number
  /** Factor on the embedding's rows. */
  readonly embeddingScale: number
  /** Soft cap on logits, c·tanh(x / c), or 0. */
  readonly logitSoftCap: number
  readonly finalNorm: NormSpec
  /** The embedding is the output projection too. */
  readonly tieWordEmbeddings: boolean
  readonly layers: ReadonlyArray<LayerSpec>
  /** Token ids that end an answer, from generation_config.json or config.json. */
  readonly eosTokenIds: ReadonlyArray<number>
}

/** x̂ · (offset + weight), x̂ = x / √(mean x² + eps). */
export interface NormSpec {
  readonly eps: number
  readonly offset: number
}

/** x += mixer(norm x); x += mlp(norm x). With `postNorms` both results are normed before they are added. */
export interface LayerSpec {
  readonly norm: NormSpec
  readonly postNorms: boolean
  readonly mixer: MixerSpec
  readonly mlp: MlpSpec
}

export type MixerSpec = AttentionSpec | DeltaSpec

export interface AttentionSpec {
  /** `full`: over all earlier rows; `sliding`: over the last `window` rows, the row itself included. */
  readonly kind: "full" | "sliding"
  /** 0 in full attention. */
  readonly window: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** Factor on q·k before the softmax. Usually headDim^−½, but a property of the model. */
  readonly scale: number
  /** Soft cap on scores, c·tanh(s / c), or 0. */
  readonly softCap: number
  readonly rope: RopeSpec
  /** Norm of each head of q and k before the rotation. */
  readonly qkNorm: NormSpec | null
  /** The output is multiplied by σ(gate), whose projection is q's second half, head by head. */
  readonly outputGate: boolean
  readonly bias: "none" | "qkv" | "qkvo"
}

export interface RopeSpec {
  readonly theta: number
  /** Dimensions of a head that are rotated, the first ones. */
  readonly dim: number
  readonly scaling:
    | { readonly type: "none" }
    | { readonly type: "linear"; readonly factor: number }
    | {
        readonly type: "llama3"
        readonly factor: number
        readonly lowFreqFactor: number
        readonly highFreqFactor: number
        readonly originalMaxPositions: number
      }
}

/** Gated DeltaNet: a linear recurrence whose state has a fixed size. */
export interface DeltaSpec {
  readonly kind: "delta"
  readonly keyHeads: number
  /** A multiple of `keyHeads`. */
  readonly valueHeads: number
  readonly keyDim: number
  readonly valueDim: number
  /** Rows that the causal convolution sees. */
  readonly convKernel: number
  /** Rows of the input projection are grouped by key head. */
  readonly grouped: boolean
  /** Where q and k are normalised: in f32, or in the activations' type before the cast. */
  readonly normaliseInput: "float" | "activation"
  /** Of the norm on the output. */
  readonly normEps: number
}

export type MlpSpec = GatedSpec | MoeSpec

export type Activation = "silu" | "gelu"

/** down(activation(gate x) · up x). `gelu` is the tanh form. */
export interface GatedSpec {
  readonly kind: "gated"
  readonly activation: Activation
  readonly inner: number
  readonly bias: boolean
}

/** A row passes the `topK` experts that the router gives most, and the shared one where there is one. */
export interface MoeSpec {
  readonly kind: "moe"
  readonly activation: Activation
  readonly experts: number
  readonly topK: number
  /** Inner width of an expert. */
  readonly inner: number
  /** The chosen experts' shares are made to sum to 1. */
  readonly renormalise: boolean
  /** Inner width of the expert that every row passes; 0 without one. */
  readonly sharedInner: number
}

/** What a layer leaves behind for later rows: K and V of all rows, those of a window, or a state. */
export type LayerKind = "full" | "sliding" | "state"

export const layerKind = ({ mixer }: LayerSpec): LayerKind => (mixer.kind === "delta" ? "state" : mixer.kind)

/** The attention of a layer; null in a recurrent one. */
export const attentionOf = ({ mixer }: LayerSpec): AttentionSpec | null => (mixer.kind === "delta" ? null : mixer)

/** Elements of a row of K, and of one of V. */
export const kvWidth = ({ kvHeads, headDim }: Pick<AttentionSpec, "kvHeads" | "headDim">): number => kvHeads * headDim

/** Elements of a delta layer that pass its convolution: q, k and v of a row. */
export const convWidth = ({ keyHeads, valueHeads, keyDim, valueDim }: DeltaSpec): number =>
  2 * keyHeads * keyDim + valueHeads * valueDim

/**
 * Bytes of one request's state in a delta layer: the f32 state, and the convolution's inputs before the next row; a multiple
 * of 256. `elementBytes`: of an activation.
 */
export const deltaStateBytes = (delta: DeltaSpec, elementBytes: number): number => {
  const state = delta.valueHeads * delta.keyDim * delta.valueDim * 4
  const convolution = (delta.convKernel - 1) * convWidth(delta) * elementBytes
  return Math.ceil((state + convolution) / 256) * 256
}
