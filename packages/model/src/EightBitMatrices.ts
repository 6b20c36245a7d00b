import type { LayerSpec, ModelSpec } from "./ModelSpec.ts"

/**
 * How the weights of layers and what they are multiplied with are rounded: `fp8` is e4m3, 8 bits, with a scale for every row. The
 * embedding, lm_head, routers and the experts that they choose stay in 16 bits.
 */
export type Quantization = "none" | "fp8"

/** Rows and columns of a matrix. */
export type MatrixSize = readonly [outputs: number, inputs: number]

/**
 * The matrices of a layer that `--quantization fp8` has in eight bits, as they are multiplied (`native/src/weights/quantization.cpp`): not
 * routers and the experts they choose, nor a matrix whose sides are no multiples of 16.
 */
export const eightBitMatrices = (
  { hiddenSize }: Pick<ModelSpec, "hiddenSize">,
  layer: LayerSpec,
): ReadonlyArray<MatrixSize> =>
  [...mixerMatrices(hiddenSize, layer), ...mlpMatrices(hiddenSize, layer)].filter(
    ([outputs, inputs]) => outputs > 0 && inputs > 0 && outputs % 16 === 0 && inputs % 16 === 0,
  )

const mixerMatrices = (hidden: number, { mixer }: LayerSpec): ReadonlyArray<MatrixSize> => {
  if (mixer.kind === "delta") {
    const values = mixer.valueHeads * mixer.valueDim
    const inputs = 2 * mixer.keyHeads * mixer.keyDim + 2 * values + 2 * mixer.valueHeads
    return [
      [inputs, hidden],
      [hidden, values],
    ]
  }
  const { heads, kvHeads, headDim, outputGate } = mixer
  return [
    [((outputGate ? 2 : 1) * heads + 2 * kvHeads) * headDim, hidden],
    [hidden, heads * headDim],
  ]
}

const mlpMatrices = (hidden: number, { mlp }: LayerSpec): ReadonlyArray<MatrixSize> => {
  const inner = mlp.kind === "moe" ? mlp.sharedInner : mlp.inner
  return [
    [2 * inner, hidden],
    [hidden, inner],
  ]
}
