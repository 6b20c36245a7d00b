import { join } from "node:path"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import { convWidth, type LayerSpec, type ModelSpec } from "@uniprefill/model/ModelSpec"
import { type Bf16Tensor, drawTensor, normalNumbers, writeModelFiles } from "./modelFiles.ts"
import { type TinyConfig, tinyConfigs, widened } from "./tinyConfigs.ts"

/**
 * Small random models of every family, as Hugging Face directories: the same bytes each time.
 *
 *     node --conditions=source test/golden/tinyModels.ts DIRECTORY
 *
 * writes all of them, for transformers_logits.py to read where transformers is installed; with `--wide` behind it in the sizes that
 * CUDA has kernels for.
 */
export const tinyModels: ReadonlyArray<string> = Object.keys(tinyConfigs)

/** Writes one of them to a directory of its own. */
export const writeTinyModel = (directory: string, name: string, wide = false): void => {
  const made = wide ? widened(tinyConfigs[name]!) : tinyConfigs[name]!
  writeModelFiles(directory, made.config, tinyTensors(name, made))
}

/** The tensors of one of them by name. */
export const tinyTensors = (
  name: string,
  { config, like }: TinyConfig = tinyConfigs[name]!,
): ReadonlyMap<string, Bf16Tensor> => {
  const { spec, family } = readModelConfig(name, config)
  const names = family.tensors(spec, new Set(like ?? []))
  const normal = normalNumbers(seedOf(name))
  const tensors = new Map<string, Bf16Tensor>()
  const draw = (tensor: string, shape: ReadonlyArray<number>, mean: number, deviation: number) =>
    tensors.set(tensor, drawTensor(shape, () => mean + deviation * normal()))

  // The logits of a tied model come from the embedding, which a Gemma scales on the way in.
  draw(names.embedding, [spec.vocabSize, spec.hiddenSize], 0, spec.tieWordEmbeddings ? 2 / spec.embeddingScale : 1)
  draw(names.finalNorm, [spec.hiddenSize], 1 - spec.finalNorm.offset, 0.1)
  if (!spec.tieWordEmbeddings) draw(names.lmHead, [spec.vocabSize, spec.hiddenSize], 0, 2 / Math.sqrt(spec.hiddenSize))
  for (const [i, layer] of spec.layers.entries()) {
    const recipes = recipesOf(spec, layer)
    for (const [role, tensor] of Object.entries(names.layers[i]!)) {
      const { shape, mean, deviation } = recipes[role]!
      if (!tensor.includes("{e}")) draw(tensor, shape, mean, deviation)
      else if (layer.mlp.kind === "moe") {
        for (let e = 0; e < layer.mlp.experts; e++) draw(tensor.replace("{e}", String(e)), shape.slice(1), mean, deviation)
      }
    }
  }
  return tensors
}

interface Recipe {
  readonly shape: ReadonlyArray<number>
  readonly mean: number
  readonly deviation: number
}

/** How the tensors of a layer are drawn, by role: scores spread widely, so that a wrong mask or position shows. */
const recipesOf = ({ hiddenSize: hidden }: ModelSpec, layer: LayerSpec): Readonly<Record<string, Recipe>> => {
  const matrix = (outputs: number, inputs: number, gain: number): Recipe => ({
    shape: [outputs, inputs],
    mean: 0,
    deviation: gain / Math.sqrt(inputs),
  })
  const stacked = (count: number, { shape, ...rest }: Recipe): Recipe => ({ shape: [count, ...shape], ...rest })
  const norm = (width: number, offset: number): Recipe => ({ shape: [width], mean: 1 - offset, deviation: 0.2 })
  const bias = (width: number): Recipe => ({ shape: [width], mean: 0, deviation: 0.3 })
  const ofHidden = norm(hidden, layer.norm.offset)
  const norms = { inputNorm: ofHidden, postAttentionNorm: ofHidden, mlpNorm: ofHidden, postMlpNorm: ofHidden }
  return { ...norms, ...mixerRecipes(layer), ...mlpRecipes(layer) }

  function mixerRecipes({ mixer }: LayerSpec): Record<string, Recipe> {
    if (mixer.kind === "delta") {
      const { keyHeads, valueHeads, keyDim, valueDim, convKernel } = mixer
      const conv = convWidth(mixer)
      const values = valueHeads * valueDim
      return {
        qkv: matrix(conv, hidden, 1.5),
        z: matrix(values, hidden, 1),
        b: matrix(valueHeads, hidden, 1),
        a: matrix(valueHeads, hidden, 1),
        qkvz: matrix(2 * keyHeads * keyDim + 2 * values, hidden, 1.5),
        ba: matrix(2 * valueHeads, hidden, 1),
        conv: { shape: [conv, 1, convKernel], mean: 0.2, deviation: 0.5 },
        // Decays of a few rows to some dozens.
        aLog: { shape: [valueHeads], mean: -1.5, deviation: 1 },
        dtBias: { shape: [valueHeads], mean: 0, deviation: 0.5 },
        deltaNorm: norm(valueDim, 0),
        out: matrix(hidden, values, 0.7),
      }
    }
    const { heads, kvHeads, headDim, outputGate, qkNorm } = mixer
    const queries = heads * headDim
    const gain = qkNorm === null ? 1.6 : 1
    return {
      q: matrix(outputGate ? 2 * queries : queries, hidden, gain),
      k: matrix(kvHeads * headDim, hidden, gain),
      v: matrix(kvHeads * headDim, hidden, 1),
      o: matrix(hidden, queries, 0.7),
      qBias: bias(outputGate ? 2 * queries : queries),
      kBias: bias(kvHeads * headDim),
      vBias: bias(kvHeads * headDim),
      oBias: bias(hidden),
      qNorm: { ...norm(headDim, qkNorm?.offset ?? 0), deviation: 0.4 },
      kNorm: { ...norm(headDim, qkNorm?.offset ?? 0), deviation: 0.4 },
    }
  }

  function mlpRecipes({ mlp }: LayerSpec): Record<string, Recipe> {
    const into = matrix(mlp.inner, hidden, 1)
    const back = matrix(hidden, mlp.inner, 0.7)
    if (mlp.kind === "gated") {
      const biases = { gateBias: bias(mlp.inner), upBias: bias(mlp.inner), downBias: bias(hidden) }
      return { gate: into, up: into, down: back, ...biases }
    }
    return {
      router: matrix(mlp.experts, hidden, 2),
      expertGateUp: stacked(mlp.experts, matrix(2 * mlp.inner, hidden, 1)),
      expertGate: stacked(mlp.experts, into),
      expertUp: stacked(mlp.experts, into),
      expertDown: stacked(mlp.experts, back),
      sharedGate: matrix(mlp.sharedInner, hidden, 1),
      sharedUp: matrix(mlp.sharedInner, hidden, 1),
      sharedDown: matrix(hidden, mlp.sharedInner, 0.7),
      sharedExpertGate: matrix(1, hidden, 2),
    }
  }
}

/** A model's bytes depend on its name alone. */
const seedOf = (name: string): number => Buffer.from(name).reduce((hash, byte) => (hash * 31 + byte) | 0, 7)

const directory = process.argv[2]
if (import.meta.main && directory !== undefined) {
  for (const name of tinyModels) writeTinyModel(join(directory, name), name, process.argv[3] === "--wide")
}
