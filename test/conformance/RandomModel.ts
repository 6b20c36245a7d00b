import { type Bf16Tensor, drawTensor, normalNumbers, writeModelFiles } from "../golden/modelFiles.ts"

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
  const normal = normalNumbers(seed)
  const tensors = new Map<string, Bf16Tensor>()
  const matrix = (name: string, rows: number, columns: number, gain: number) =>
    tensors.set(
      name,
      drawTensor([rows, columns], () => (gain * normal()) / Math.sqrt(columns)),
    )
  const norm = (name: string) =>
    tensors.set(
      name,
      drawTensor([hidden], () => 1 + 0.1 * normal()),
    )

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

  writeModelFiles(directory, config, tensors)
}
