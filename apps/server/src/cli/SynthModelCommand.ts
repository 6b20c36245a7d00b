import { closeSync, copyFileSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs"
import { join } from "node:path"
import { Effect } from "effect"
import type { synthModelOptions } from "../bench/EngineBenchOptions.ts"
import { embeddedModel } from "../options/ModelOptions.ts"
import type { OptionValues } from "../options/Options.ts"
import { UsageError } from "./UsageError.ts"

export type SynthModelSettings = OptionValues<typeof synthModelOptions>

/** Llama-3.1-8B's config.json. */
const llama = {
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 4096,
  intermediate_size: 14_336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  head_dim: 128,
  vocab_size: 128_256,
  max_position_embeddings: 131_072,
  rms_norm_eps: 1e-5,
  rope_theta: 500_000,
  hidden_act: "silu",
  tie_word_embeddings: false,
  attention_bias: false,
  mlp_bias: false,
  bos_token_id: 0,
  eos_token_id: 1,
  torch_dtype: "bfloat16",
} as const

/** The paper's layers for this shape; where they drop says nothing about a model of random weights. */
const dropLayers = [7, 11, 15, 19, 23, 27]

interface Tensor {
  readonly name: string
  readonly shape: ReadonlyArray<number>
}

/**
 * Writes a model directory with the shape of a known model and random weights, scaled so that activations stay finite; the tokenizer is
 * the embedded model's. Its answers mean nothing: it is there to be timed.
 */
export const synthModel = (settings: SynthModelSettings, directory: string) =>
  Effect.try({
    try: () => {
      const layers = settings.layers ?? llama.num_hidden_layers
      mkdirSync(directory, { recursive: true })
      const config = { ...llama, num_hidden_layers: layers }
      writeFileSync(join(directory, "config.json"), `${JSON.stringify(config, null, 1)}\n`)
      for (const file of ["tokenizer.json", "tokenizer_config.json"]) {
        copyFileSync(join(embeddedModel(), file), join(directory, file))
      }
      const drops = dropLayers.filter((layer) => layer < layers - 1).map((layer) => ({ layer, p: 0.99 }))
      if (drops.length > 0) {
        const schedule = { format: "uniprefill-schedule", version: 1, dropLayers: drops }
        writeFileSync(join(directory, "uniprefill.json"), `${JSON.stringify(schedule, null, 1)}\n`)
      }
      const bytes = writeTensors(join(directory, "model.safetensors"), tensorsOf(layers), settings.seed)
      process.stdout.write(
        `${directory}: ${layers} layers like ${settings.like}, ${(bytes / 1e9).toFixed(2)} GB of random weights\n`,
      )
    },
    catch: (error) => new UsageError({ message: `${directory}: ${(error as Error).message}` }),
  })

const tensorsOf = (layers: number): ReadonlyArray<Tensor> => {
  const { hidden_size: hidden, intermediate_size: inner, head_dim: dim, vocab_size: vocabulary } = llama
  const [queries, keys] = [llama.num_attention_heads * dim, llama.num_key_value_heads * dim]
  const tensors: Array<Tensor> = [
    { name: "model.embed_tokens.weight", shape: [vocabulary, hidden] },
    { name: "model.norm.weight", shape: [hidden] },
    { name: "lm_head.weight", shape: [vocabulary, hidden] },
  ]
  for (let i = 0; i < layers; i++) {
    const add = (part: string, ...shape: ReadonlyArray<number>) =>
      tensors.push({ name: `model.layers.${i}.${part}.weight`, shape })
    add("input_layernorm", hidden)
    add("post_attention_layernorm", hidden)
    add("self_attn.q_proj", queries, hidden)
    add("self_attn.k_proj", keys, hidden)
    add("self_attn.v_proj", keys, hidden)
    add("self_attn.o_proj", hidden, queries)
    add("mlp.gate_proj", inner, hidden)
    add("mlp.up_proj", inner, hidden)
    add("mlp.down_proj", hidden, inner)
  }
  return tensors
}

/** Values of a block that is written again and again, each tensor beginning at another place of it. */
const blockValues = 1 << 23

const writeTensors = (file: string, tensors: ReadonlyArray<Tensor>, seed: number): number => {
  const header: Record<string, unknown> = { __metadata__: { format: "pt" } }
  let end = 0
  for (const { name, shape } of tensors) {
    const bytes = 2 * countOf(shape)
    header[name] = { dtype: "BF16", shape, data_offsets: [end, end + bytes] }
    end += bytes
  }
  const text = Buffer.from(JSON.stringify(header))
  const padded = Buffer.concat([text, Buffer.alloc((4088 - (text.length % 4096) + 4096) % 4096, " ")])
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  const block = Buffer.from(normalBf16(blockValues, seed, 0.015).buffer)
  const ones = Buffer.from(new Uint16Array(llama.hidden_size).fill(0x3f80).buffer)
  const out = openSync(file, "w")
  try {
    writeSync(out, length)
    writeSync(out, padded)
    for (const [i, { shape }] of tensors.entries()) {
      if (shape.length === 1) {
        writeSync(out, ones)
        continue
      }
      let left = 2 * countOf(shape)
      let from = ((i * 7919) % 1024) * 4096
      while (left > 0) {
        const bytes = Math.min(left, block.length - from)
        writeAll(out, block.subarray(from, from + bytes))
        left -= bytes
        from = (from + bytes) % block.length
      }
    }
  } finally {
    closeSync(out)
  }
  return end
}

const writeAll = (file: number, bytes: Buffer): void => {
  for (let at = 0; at < bytes.length;) at += writeSync(file, bytes, at)
}

const countOf = (shape: ReadonlyArray<number>): number => shape.reduce((product, size) => product * size, 1)

/** Normal numbers cut to bf16, the same for the same seed. */
const normalBf16 = (count: number, seed: number, deviation: number): Uint16Array => {
  let state = (seed ^ 0x9e37_79b9) >>> 0 || 1
  const uniform = () => {
    state ^= state << 13
    state >>>= 0
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return (state + 0.5) / 0x1_0000_0000
  }
  const values = new Uint16Array(count)
  const word = new Float32Array(1)
  const bits = new Uint32Array(word.buffer)
  for (let i = 0; i < count; i++) {
    word[0] = deviation * Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
    values[i] = bits[0]! >>> 16
  }
  return values
}
