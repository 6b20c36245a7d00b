import { mkdtempSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"

/** A small Llama model with random weights, written as a Hugging Face directory. */
export interface RandomModel {
  readonly layers: number
  readonly hidden: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly inner: number
  readonly vocab: number
}

export const smallModel: RandomModel = {
  layers: 4,
  hidden: 32,
  heads: 2,
  kvHeads: 1,
  headDim: 16,
  inner: 48,
  vocab: 64,
}

export interface Tensor {
  readonly name: string
  readonly dtype: string
  readonly shape: ReadonlyArray<number>
  readonly data: Uint8Array
}

export const specOf = (model: RandomModel): ModelSpec => readModelConfig("config.json", configOf(model)).spec

const configOf = (model: RandomModel) => ({
  architectures: ["LlamaForCausalLM"],
  hidden_size: model.hidden,
  intermediate_size: model.inner,
  num_hidden_layers: model.layers,
  num_attention_heads: model.heads,
  num_key_value_heads: model.kvHeads,
  head_dim: model.headDim,
  vocab_size: model.vocab,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  hidden_act: "silu",
  tie_word_embeddings: true,
})

/** Numbers in [−1, 1), the same every time. */
const randomNumbers = (seed: number) => () => {
  seed = (Math.imul(seed, 1664525) + 1013904223) | 0
  return seed / 0x8000_0000
}

export const randomTensors = (model: RandomModel): Array<Tensor> => {
  const random = randomNumbers(7)
  const tensor = (name: string, shape: ReadonlyArray<number>, mean: number, spread: number): Tensor => {
    const floats = Float32Array.from({ length: shape.reduce((a, b) => a * b, 1) }, () => mean + spread * random())
    const words = new Uint16Array(floats.buffer)
    const data = new Uint8Array(Uint16Array.from(floats, (_, i) => words[2 * i + 1]!).buffer)
    return { name, dtype: "BF16", shape, data }
  }
  const { hidden, inner } = model
  const q = model.heads * model.headDim
  const kv = model.kvHeads * model.headDim
  const matrix = (name: string, rows: number, columns: number, sharpness = 1) =>
    tensor(name, [rows, columns], 0, sharpness * Math.sqrt(3 / columns))
  return [
    matrix("model.embed_tokens.weight", model.vocab, hidden, Math.sqrt(hidden)),
    tensor("model.norm.weight", [hidden], 1, 0.1),
    ...Array.from({ length: model.layers }, (_, layer) => {
      const at = `model.layers.${layer}`
      return [
        tensor(`${at}.input_layernorm.weight`, [hidden], 1, 0.1),
        tensor(`${at}.post_attention_layernorm.weight`, [hidden], 1, 0.1),
        matrix(`${at}.self_attn.q_proj.weight`, q, hidden, 1.5),
        matrix(`${at}.self_attn.k_proj.weight`, kv, hidden, 1.5),
        matrix(`${at}.self_attn.v_proj.weight`, kv, hidden),
        matrix(`${at}.self_attn.o_proj.weight`, hidden, q),
        matrix(`${at}.mlp.gate_proj.weight`, inner, hidden),
        matrix(`${at}.mlp.up_proj.weight`, inner, hidden),
        matrix(`${at}.mlp.down_proj.weight`, hidden, inner),
      ]
    }).flat(),
  ]
}

export const safetensors = (tensors: ReadonlyArray<Tensor>): Uint8Array => {
  let offset = 0
  const entries = tensors.map(({ name, dtype, shape, data }) => {
    const begin = offset
    offset += data.length
    return [name, { dtype, shape, data_offsets: [begin, offset] }] as const
  })
  const json = JSON.stringify(Object.fromEntries(entries))
  const header = new TextEncoder().encode(json.padEnd(Math.ceil(json.length / 8) * 8))
  const length = new Uint8Array(new BigUint64Array([BigInt(header.length)]).buffer)
  return Buffer.concat([length, header, ...tensors.map((tensor) => tensor.data)])
}

/** A directory that disappears at the end of the scope: `using directory = writeModel(…)`. */
export const writeModel = (model: RandomModel, weights: Uint8Array = safetensors(randomTensors(model))) => {
  const path = mkdtempSync(join(tmpdir(), "uniprefill-native-"))
  writeFileSync(join(path, "config.json"), JSON.stringify(configOf(model)))
  writeFileSync(join(path, "model.safetensors"), weights)
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) }
}
