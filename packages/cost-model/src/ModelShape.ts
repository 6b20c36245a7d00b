import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { parameterCount } from "@uniprefill/model/Parameters"

/** A model and the types that its numbers are kept in. */
export interface ModelShape {
  readonly spec: ModelSpec
  /** Bytes of a weight. */
  readonly weightBytes: number
  /** Those of the matrices of layers, but for the experts of a row; by default the same. */
  readonly matrixBytes?: number | undefined
  /** Bytes of an element of K or V. */
  readonly kvBytes: number
}

/** 16-bit weights and K/V. */
export const inSixteenBits = (spec: ModelSpec): ModelShape => ({ spec, weightBytes: 2, kvBytes: 2 })

/** Bytes of all weights, embeddings included, at `weightBytes` each. */
export const weightBytes = (shape: ModelShape): number => parameterCount(shape.spec) * shape.weightBytes

/** Experts of the layers that have any, and how many a row passes; 0 without experts. */
export const expertsOf = ({ layers }: ModelSpec): { readonly experts: number; readonly topK: number } => {
  for (const { mlp } of layers) if (mlp.kind === "moe") return { experts: mlp.experts, topK: mlp.topK }
  return { experts: 0, topK: 0 }
}
