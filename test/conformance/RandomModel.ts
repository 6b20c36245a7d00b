import { mkdirSync, writeFileSync } from "node:fs"
import { join } from "node:path"

export interface RandomModelOptions {
  readonly layers: number
  readonly hidden: number
  readonly intermediate: number
  readonly heads: number
  readonly kvHeads: number
  readonly headDim: number
  readonly vocab: number
  readonly tied: boolean
  readonly seed: number
}

/** Writes a Llama model with random weights as a Hugging Face directory: config.json and model.safetensors in bf16. */
export const writeRandomModel = (directory: string, options: RandomModelOptions): void => {
  const { layers, hidden, intermediate, heads, kvHeads, headDim, vocab, tied, seed } = options
  mkdirSync(directory, { recursive: true })
  const config = {
    architectures: ["LlamaForCausalLM"],
    model_type: "llama",
    hidden_size: hidden,
    intermediate_size: intermediate,
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: kvHeads,
    head_dim: headDim,
    vocab_size: vocab,
    rope_theta: 10_000,
    rms_norm_eps: 1e-5,
    max_position_embeddings: 4096,
    tie_word_embeddings: tied,
    hidden_act: "silu",
    eos_token_id: 1,
    torch_dtype: "bfloat16",
    attention_bias: false,
    mlp_bias: false,
  }
  writeFileSync(join(directory, "config.json"), JSON.stringify(config))

  const normal = normalNumbers(seed)
  const tensors = new Map<string, { shape: ReadonlyArray<number>; values: Uint16Array }>()
  const matrix = (name: string, rows: number, columns: number, gain: number) => {
    const values = new Uint16Array(rows * columns)
    for (let i = 0; i < values.length; i++) values[i] = bf16((gain * normal()) / Math.sqrt(columns))
    tensors.set(name, { shape: [rows, columns], values })
  }
  const norm = (name: string) =>
    tensors.set(name, { shape: [hidden], values: Uint16Array.from({ length: hidden }, () => bf16(1 + 0.1 * normal())) })

  matrix("model.embed_tokens.weight", vocab, hidden, Math.sqrt(hidden))
  norm("model.norm.weight")
  if (!tied) matrix("lm_head.weight", vocab, hidden, 1)
  for (let layer = 0; layer < layers; layer++) {
    const name = (part: string) => `model.layers.${layer}.${part}.weight`
    norm(name("input_layernorm"))
    norm(name("post_attention_layernorm"))
    // Scores spread wide enough that attention, and so selection, prefers some rows.
    matrix(name("self_attn.q_proj"), heads * headDim, hidden, 1.6)
    matrix(name("self_attn.k_proj"), kvHeads * headDim, hidden, 1.6)
    matrix(name("self_attn.v_proj"), kvHeads * headDim, hidden, 1)
    matrix(name("self_attn.o_proj"), hidden, heads * headDim, 0.5)
    matrix(name("mlp.gate_proj"), intermediate, hidden, 1)
    matrix(name("mlp.up_proj"), intermediate, hidden, 1)
    matrix(name("mlp.down_proj"), hidden, intermediate, 0.5)
  }

  const header: Record<string, unknown> = {}
  let offset = 0
  for (const [name, { shape, values }] of tensors) {
    header[name] = { dtype: "BF16", shape, data_offsets: [offset, offset + values.byteLength] }
    offset += values.byteLength
  }
  const text = Buffer.from(JSON.stringify(header))
  const padded = Buffer.concat([text, Buffer.alloc((8 - (text.length % 8)) % 8, " ")])
  const length = Buffer.alloc(8)
  length.writeBigUInt64LE(BigInt(padded.length))
  const data = [...tensors.values()].map(({ values }) => Buffer.from(values.buffer, 0, values.byteLength))
  writeFileSync(join(directory, "model.safetensors"), Buffer.concat([length, padded, ...data]))
}

const word = new Float32Array(1)
const bits = new Uint32Array(word.buffer)

/** Rounded to nearest even. */
const bf16 = (value: number): number => {
  word[0] = value
  return ((bits[0]! + 0x7fff + ((bits[0]! >>> 16) & 1)) >>> 16) & 0xffff
}

/** Standard normal numbers drawn from `seed` (Box–Muller over a 32-bit generator). */
const normalNumbers = (seed: number): (() => number) => {
  let state = seed >>> 0 || 1
  const uniform = () => {
    state ^= state << 13
    state >>>= 0
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return (state + 0.5) / 0x1_0000_0000
  }
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform())
}
