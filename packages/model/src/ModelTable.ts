import type { Quantization } from "./EightBitMatrices.ts"
import type { ModelDirectory } from "./ModelDirectory.ts"
import type { LayerSpec, MixerSpec, MlpSpec } from "./ModelSpec.ts"

/**
 * The model as the native library gets it, which reads no config.json: the table of layers, what each layer's tensors are
 * called, and the files they are in. JSON, format `uniprefill-model`.
 */
export const modelTable = (
  { spec, weights, index, tensors, identity }: ModelDirectory,
  quantization: Quantization = "none",
): string =>
  JSON.stringify({
    format: "uniprefill-model",
    version: 1,
    architecture: spec.architecture,
    identity,
    hiddenSize: spec.hiddenSize,
    vocabSize: spec.vocabSize,
    maxPositions: spec.maxPositions,
    embeddingScale: spec.embeddingScale,
    logitSoftCap: spec.logitSoftCap,
    quantization,
    finalNorm: spec.finalNorm,
    files: weights,
    index,
    ignore: tensors.ignore,
    tensors: { embedding: tensors.embedding, finalNorm: tensors.finalNorm, lmHead: tensors.lmHead },
    layers: spec.layers.map((layer, i) => layerTable(layer, tensors.layers[i]!)),
  })

const layerTable = ({ norm, postNorms, mixer, mlp }: LayerSpec, names: Readonly<Record<string, string>>) => ({
  norm,
  postNorms,
  mixer: mixerTable(mixer),
  mlp: mlpTable(mlp, names),
  tensors: names,
})

/** Biases are told by their tensors. */
const mixerTable = (mixer: MixerSpec) => {
  if (mixer.kind === "delta") return mixer
  const { bias: _, ...attention } = mixer
  return attention
}

const mlpTable = (mlp: MlpSpec, names: Readonly<Record<string, string>>) => {
  if (mlp.kind === "moe") return { ...mlp, fused: "expertGateUp" in names }
  const { bias: _, ...gated } = mlp
  return gated
}
