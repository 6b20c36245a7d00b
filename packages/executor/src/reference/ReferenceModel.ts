import { attentionOf, type AttentionSpec, type LayerKind, layerKind, type ModelSpec } from "@uniprefill/model/ModelSpec"

/**
 * A small model of the Llama family with random weights, in plain double-precision loops: what executors are tested
 * against. Layers may also be sliding-window attention or a linear recurrence, so that every kind of table is exercised.
 *
 * Every function here works on one row, and a row's arithmetic never depends on which other rows are computed with it. So
 * equal inputs give equal bits, however a prompt is cut.
 */
export interface ReferenceModel {
  readonly spec: ModelSpec
  /** [vocab × hidden]; also the output projection. */
  readonly embedding: Float64Array
  readonly finalNorm: Float64Array
  readonly layers: ReadonlyArray<ReferenceLayer>
}

/** Matrices are [outputs × inputs]. */
export interface ReferenceLayer {
  readonly inputNorm: Float64Array
  readonly postNorm: Float64Array
  /** Attention's projections; in a recurrent layer: read gate, decay, input and output. */
  readonly q: Float64Array
  readonly k: Float64Array
  readonly v: Float64Array
  readonly o: Float64Array
  readonly gate: Float64Array
  readonly up: Float64Array
  readonly down: Float64Array
}

export interface ReferenceDimensions {
  /** Kind of every layer. */
  readonly layers: ReadonlyArray<LayerKind>
  readonly hidden?: number
  readonly intermediate?: number
  readonly heads?: number
  readonly kvHeads?: number
  readonly headDim?: number
  readonly vocab?: number
  /** Rows that a sliding layer sees. */
  readonly window?: number
  readonly maxPositions?: number
  readonly attentionScale?: number
  readonly attentionSoftCap?: number
}

export const referenceSpec = (dimensions: ReferenceDimensions): ModelSpec => {
  const { hidden = 16, intermediate = 24, heads = 2, kvHeads = 1, headDim = 8, vocab = 64, window = 96 } = dimensions
  const norm = { eps: 1e-5, offset: 0 }
  const attention: AttentionSpec = {
    kind: "full",
    window: 0,
    heads,
    kvHeads,
    headDim,
    scale: dimensions.attentionScale ?? 1 / Math.sqrt(headDim),
    softCap: dimensions.attentionSoftCap ?? 0,
    rope: { theta: 10_000, dim: headDim, scaling: { type: "none" } },
    qkNorm: null,
    outputGate: false,
    bias: "none",
  }
  const sizes = { keyHeads: kvHeads, valueHeads: kvHeads, keyDim: headDim, valueDim: headDim, convKernel: 1 }
  const mixers = {
    full: attention,
    sliding: { ...attention, kind: "sliding", window },
    state: { kind: "delta", ...sizes, grouped: false, normaliseInput: "float", normEps: 1e-5 },
  } as const
  return {
    architecture: "ReferenceForCausalLM",
    hiddenSize: hidden,
    vocabSize: vocab,
    maxPositions: dimensions.maxPositions ?? 4096,
    embeddingScale: 1,
    logitSoftCap: 0,
    finalNorm: norm,
    tieWordEmbeddings: true,
    layers: dimensions.layers.map((kind) => ({
      norm,
      postNorms: false,
      mixer: mixers[kind],
      mlp: { kind: "gated", activation: "silu", inner: intermediate, bias: false },
    })),
    eosTokenIds: [1],
  }
}

/** The attention of a reference model: its layers differ in kind and window alone. Requires a layer that has one. */
export const referenceAttention = ({ layers }: ModelSpec): AttentionSpec => {
  for (const layer of layers) if (layer.mixer.kind !== "delta") return layer.mixer
  throw new RangeError("a reference model has an attention layer")
}

/** Kind and window of a layer. */
export const referenceLayer = (
  { layers }: ModelSpec,
  layer: number,
): { readonly kind: LayerKind; readonly window: number } => {
  const spec = layers[layer]!
  return { kind: layerKind(spec), window: attentionOf(spec)?.window ?? 0 }
}

/** Weights drawn from `seed`. Scores are spread wide enough that attention, and so selection, prefers some rows. */
export const makeReferenceModel = (spec: ModelSpec, seed: number): ReferenceModel => {
  const normal = normalNumbers(seed)
  const matrix = (outputs: number, inputs: number, gain: number) =>
    Float64Array.from({ length: outputs * inputs }, () => (gain * normal()) / Math.sqrt(inputs))
  const norm = () => Float64Array.from({ length: spec.hiddenSize }, () => 1 + 0.1 * normal())
  const { hiddenSize: hidden } = spec
  const { inner: intermediate } = spec.layers[0]!.mlp
  const { heads, kvHeads, headDim } = referenceAttention(spec)
  const keyValues = kvHeads * headDim
  return {
    spec,
    embedding: Float64Array.from({ length: spec.vocabSize * hidden }, normal),
    finalNorm: norm(),
    layers: spec.layers.map((layer) => {
      const queries = layerKind(layer) === "state" ? keyValues : heads * headDim
      return {
        inputNorm: norm(),
        postNorm: norm(),
        q: matrix(queries, hidden, 1.6),
        k: matrix(keyValues, hidden, 1.6),
        v: matrix(keyValues, hidden, 1),
        o: matrix(hidden, queries, 0.5),
        gate: matrix(intermediate, hidden, 1),
        up: matrix(intermediate, hidden, 1),
        down: matrix(hidden, intermediate, 0.5),
      }
    }),
  }
}

/** matrix · row. */
export const project = (matrix: Float64Array, row: Float64Array): Float64Array => {
  const outputs = matrix.length / row.length
  const result = new Float64Array(outputs)
  for (let i = 0; i < outputs; i++) {
    let sum = 0
    for (let j = 0; j < row.length; j++) sum += matrix[i * row.length + j]! * row[j]!
    result[i] = sum
  }
  return result
}

export const rmsNorm = (spec: ModelSpec, row: Float64Array, weight: Float64Array): Float64Array => {
  let squares = 0
  for (const x of row) squares += x * x
  const scale = 1 / Math.sqrt(squares / row.length + spec.finalNorm.eps)
  return row.map((x, i) => x * scale * weight[i]!)
}

/** Rotates each head of a row of queries or keys to its original position, in place. */
export const rotate = (spec: ModelSpec, row: Float64Array, position: number): Float64Array => {
  const { headDim, rope } = referenceAttention(spec)
  const half = headDim / 2
  for (let head = 0; head < row.length; head += headDim) {
    for (let i = 0; i < half; i++) {
      const angle = position * rope.theta ** (-i / half)
      const a = row[head + i]!
      const b = row[head + half + i]!
      row[head + i] = a * Math.cos(angle) - b * Math.sin(angle)
      row[head + half + i] = b * Math.cos(angle) + a * Math.sin(angle)
    }
  }
  return row
}

/**
 * Attention weights of one head of one query over key rows lo … hi, [hi − lo + 1]. `keys` is [rows × kvHeads · headDim].
 */
export const attentionWeights = (
  spec: ModelSpec,
  query: Float64Array,
  head: number,
  keys: Float64Array,
  lo: number,
  hi: number,
): Float64Array => {
  const { heads, headDim, kvHeads, scale, softCap: cap } = referenceAttention(spec)
  const kvHead = Math.floor(head / (heads / kvHeads))
  const weights = new Float64Array(hi - lo + 1)
  let largest = -Infinity
  for (let j = lo; j <= hi; j++) {
    let score = 0
    const at = (j * kvHeads + kvHead) * headDim
    for (let i = 0; i < headDim; i++) score += query[head * headDim + i]! * keys[at + i]!
    score *= scale
    if (cap > 0) score = cap * Math.tanh(score / cap)
    weights[j - lo] = score
    if (score > largest) largest = score
  }
  let sum = 0
  for (let j = 0; j < weights.length; j++) sum += weights[j] = Math.exp(weights[j]! - largest)
  for (let j = 0; j < weights.length; j++) weights[j]! /= sum
  return weights
}

/** Attention of one query row over rows lo … hi, before the output projection: [heads · headDim]. */
export const attend = (
  spec: ModelSpec,
  query: Float64Array,
  keys: Float64Array,
  values: Float64Array,
  lo: number,
  hi: number,
): Float64Array => {
  const { heads, headDim, kvHeads } = referenceAttention(spec)
  const output = new Float64Array(query.length)
  for (let head = 0; head < heads; head++) {
    const kvHead = Math.floor(head / (heads / kvHeads))
    const weights = attentionWeights(spec, query, head, keys, lo, hi)
    for (let j = lo; j <= hi; j++) {
      const at = (j * kvHeads + kvHead) * headDim
      for (let i = 0; i < headDim; i++) output[head * headDim + i]! += weights[j - lo]! * values[at + i]!
    }
  }
  return output
}

/** One row of the recurrence: state ← decay · state + input, output gated by the row. Mutates `state`. */
export const recur = (layer: ReferenceLayer, normed: Float64Array, state: Float64Array): Float64Array => {
  const read = project(layer.q, normed)
  const decay = project(layer.k, normed)
  const input = project(layer.v, normed)
  for (let i = 0; i < state.length; i++) state[i] = state[i]! * sigmoid(decay[i]!) + input[i]!
  return read.map((x, i) => sigmoid(x) * state[i]!)
}

/** row + o_proj · mixed, then the MLP with its residual. */
export const finishLayer = (
  spec: ModelSpec,
  layer: ReferenceLayer,
  row: Float64Array,
  mixed: Float64Array,
): Float64Array => {
  const after = add(row, project(layer.o, mixed))
  const normed = rmsNorm(spec, after, layer.postNorm)
  const gate = project(layer.gate, normed)
  const up = project(layer.up, normed)
  return add(
    after,
    project(
      layer.down,
      gate.map((x, i) => x * sigmoid(x) * up[i]!),
    ),
  )
}

export const embed = (model: ReferenceModel, token: number): Float64Array =>
  model.embedding.slice(token * model.spec.hiddenSize, (token + 1) * model.spec.hiddenSize)

/** Logits of the token after a row, [vocab]. */
export const logitsOf = (model: ReferenceModel, row: Float64Array): Float64Array =>
  project(model.embedding, rmsNorm(model.spec, row, model.finalNorm))

const add = (a: Float64Array, b: Float64Array): Float64Array => a.map((x, i) => x + b[i]!)

const sigmoid = (x: number): number => 1 / (1 + Math.exp(-x))

/** Standard normal numbers by the Box–Muller transform. */
const normalNumbers = (seed: number) => {
  const uniform = uniformNumbers(seed)
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())
}

/** Numbers in [0, 1) from a counter hashed with SplitMix's 32-bit finaliser. */
export const uniformNumbers = (seed: number) => {
  let state = seed | 0
  return () => {
    state = (state + 0x9e3779b9) | 0
    let z = Math.imul(state ^ (state >>> 16), 0x21f0aaad)
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97)
    return ((z ^ (z >>> 15)) >>> 0) / 0x1_0000_0000
  }
}
