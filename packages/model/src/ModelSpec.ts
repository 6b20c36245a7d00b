/** The parts of a model that scheduling, memory and cost depend on, plus what a runner needs to check its weights. */
export interface ModelSpec {
  /** The Hugging Face architecture name, `LlamaForCausalLM`. */
  readonly architecture: string
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly vocabSize: number
  /** Longest sequence the model was made for, in tokens. */
  readonly maxPositions: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  /** Factor on q·k before the softmax. Usually headDim^−½, but a property of the model. */
  readonly attentionScale: number
  /** Soft cap on attention scores, c·tanh(s / c), or 0. */
  readonly attentionSoftCap: number
  readonly normEps: number
  readonly tieWordEmbeddings: boolean
  readonly attentionBias: boolean
  readonly mlpBias: boolean
  readonly rope: RopeSpec
  readonly layers: ReadonlyArray<LayerSpec>
  /** Bytes of one request's recurrent state in one layer of kind `state`; 0 in models without such layers. */
  readonly stateBytesPerLayer: number
  /** Token ids that end an answer, from generation_config.json or config.json. */
  readonly eosTokenIds: ReadonlyArray<number>
}

export interface RopeSpec {
  readonly theta: number
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

/**
 * - `full`: attention over all earlier rows;
 * - `sliding`: attention over the last `window` rows;
 * - `state`: a linear recurrence with a state of fixed size.
 */
export type LayerKind = "full" | "sliding" | "state"

export interface LayerSpec {
  readonly kind: LayerKind
  /** Rows a `sliding` layer sees, the row itself included; 0 for other kinds. */
  readonly window: number
}
