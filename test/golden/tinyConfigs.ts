/** A config.json, and names of tensors where a family has several ways to call them. */
export interface TinyConfig {
  readonly config: Readonly<Record<string, unknown>>
  readonly like?: ReadonlyArray<string>
}

const common = {
  vocab_size: 64,
  max_position_embeddings: 512,
  initializer_range: 0.02,
  torch_dtype: "bfloat16",
  eos_token_id: 1,
  bos_token_id: 0,
}

const llama = {
  ...common,
  architectures: ["LlamaForCausalLM"],
  model_type: "llama",
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 3,
  num_attention_heads: 4,
  rms_norm_eps: 1e-5,
  rope_theta: 10_000,
  hidden_act: "silu",
}

const gemma = {
  vocab_size: 64,
  max_position_embeddings: 512,
  hidden_size: 96,
  intermediate_size: 128,
  num_hidden_layers: 7,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  hidden_activation: "gelu_pytorch_tanh",
  rms_norm_eps: 1e-6,
}

/** q, k and v of two key heads; twice as many value heads. */
const qwen = {
  ...common,
  hidden_size: 64,
  num_hidden_layers: 5,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  head_dim: 32,
  rms_norm_eps: 1e-6,
  hidden_act: "silu",
  layer_types: ["linear_attention", "full_attention", "linear_attention", "full_attention", "linear_attention"],
  linear_conv_kernel_dim: 4,
  linear_key_head_dim: 16,
  linear_value_head_dim: 16,
  linear_num_key_heads: 2,
  linear_num_value_heads: 4,
  rope_parameters: {
    rope_type: "default",
    rope_theta: 100_000,
    partial_rotary_factor: 0.25,
    mrope_section: [2, 1, 1],
    mrope_interleaved: true,
  },
}

const experts = {
  num_experts: 8,
  num_experts_per_tok: 3,
  moe_intermediate_size: 32,
  shared_expert_intermediate_size: 48,
}

/** An eye of the least size: multimodal architectures want one to be there. */
const vision = {
  hidden_size: 16,
  intermediate_size: 16,
  num_hidden_layers: 1,
  num_attention_heads: 1,
  image_size: 28,
  patch_size: 14,
}

/** Every variant that a family has, by name. */
export const tinyConfigs: Readonly<Record<string, TinyConfig>> = {
  "llama-gqa": { config: { ...llama, num_key_value_heads: 2, tie_word_embeddings: false } },
  "llama-mha-tied-linear": {
    config: {
      ...llama,
      head_dim: 32,
      tie_word_embeddings: true,
      rope_scaling: { rope_type: "linear", factor: 4 },
    },
  },
  "llama-mqa-biases-llama3": {
    config: {
      ...llama,
      num_key_value_heads: 1,
      attention_bias: true,
      mlp_bias: true,
      rope_parameters: {
        rope_type: "llama3",
        rope_theta: 10_000,
        factor: 8,
        low_freq_factor: 1,
        high_freq_factor: 4,
        original_max_position_embeddings: 64,
      },
    },
  },
  "mistral-window": {
    config: {
      ...llama,
      architectures: ["MistralForCausalLM"],
      model_type: "mistral",
      num_key_value_heads: 2,
      sliding_window: 16,
    },
  },
  "qwen2-biases-tied": {
    config: {
      ...llama,
      architectures: ["Qwen2ForCausalLM"],
      model_type: "qwen2",
      num_key_value_heads: 2,
      tie_word_embeddings: true,
      use_sliding_window: true,
      sliding_window: 24,
      max_window_layers: 1,
    },
  },
  qwen3: {
    config: {
      ...llama,
      architectures: ["Qwen3ForCausalLM"],
      model_type: "qwen3",
      num_key_value_heads: 2,
      head_dim: 32,
      use_sliding_window: false,
      sliding_window: null,
    },
  },
  // The first layer and every odd one are dense.
  "qwen3-moe": {
    config: {
      ...llama,
      architectures: ["Qwen3MoeForCausalLM"],
      model_type: "qwen3_moe",
      num_hidden_layers: 4,
      num_key_value_heads: 2,
      head_dim: 32,
      num_experts: 8,
      num_experts_per_tok: 2,
      moe_intermediate_size: 32,
      norm_topk_prob: false,
      decoder_sparse_step: 1,
      mlp_only_layers: [1],
    },
  },
  "gemma3-window": {
    config: {
      ...gemma,
      architectures: ["Gemma3ForCausalLM"],
      model_type: "gemma3_text",
      query_pre_attn_scalar: 24,
      sliding_window: 16,
      sliding_window_pattern: 6,
      rope_theta: 1_000_000,
      rope_local_base_freq: 10_000,
      rope_scaling: { rope_type: "linear", factor: 8 },
    },
  },
  // Settings of rotation by layer type, a window longer than the text, soft caps, and the names of published checkpoints.
  "gemma3-multimodal": {
    config: {
      architectures: ["Gemma3ForConditionalGeneration"],
      model_type: "gemma3",
      mm_tokens_per_image: 4,
      vision_config: { ...vision, model_type: "siglip_vision_model", vision_use_head: false },
      text_config: {
        ...gemma,
        model_type: "gemma3_text",
        num_hidden_layers: 4,
        query_pre_attn_scalar: 32,
        sliding_window: 256,
        layer_types: ["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
        rope_parameters: {
          full_attention: { rope_type: "linear", factor: 8, rope_theta: 1_000_000 },
          sliding_attention: { rope_type: "default", rope_theta: 10_000 },
        },
      },
    },
  },
  "qwen3.5-tied": {
    config: {
      ...qwen,
      architectures: ["Qwen3_5ForCausalLM"],
      model_type: "qwen3_5_text",
      intermediate_size: 96,
      tie_word_embeddings: true,
    },
  },
  // As many value heads as key heads, wider than these; biases; the names of published checkpoints.
  "qwen3.5-multimodal": {
    config: {
      architectures: ["Qwen3_5ForConditionalGeneration"],
      model_type: "qwen3_5",
      tie_word_embeddings: false,
      vision_config: {
        depth: 1,
        hidden_size: 16,
        intermediate_size: 16,
        num_heads: 1,
        patch_size: 14,
        out_hidden_size: 64,
        num_position_embeddings: 16,
      },
      text_config: {
        ...qwen,
        model_type: "qwen3_5_text",
        intermediate_size: 96,
        linear_num_key_heads: 4,
        linear_value_head_dim: 32,
        attention_bias: true,
      },
    },
  },
  "qwen3.5-moe-fused": {
    config: { ...qwen, ...experts, architectures: ["Qwen3_5MoeForCausalLM"], model_type: "qwen3_5_moe_text" },
    like: Array.from({ length: 5 }, (_, layer) => `model.layers.${layer}.mlp.experts.gate_up_proj`),
  },
  "qwen3.5-moe": {
    config: { ...qwen, ...experts, architectures: ["Qwen3_5MoeForCausalLM"], model_type: "qwen3_5_moe_text" },
  },
  "qwen3-next": {
    config: {
      ...qwen,
      ...experts,
      architectures: ["Qwen3NextForCausalLM"],
      model_type: "qwen3_next",
      intermediate_size: 96,
      mlp_only_layers: [1],
      decoder_sparse_step: 1,
      norm_topk_prob: true,
      rope_parameters: { rope_type: "default", rope_theta: 100_000, partial_rotary_factor: 0.25 },
    },
  },
}

/** The same model with heads of 64 and experts of 64: the least sizes that CUDA has kernels for. */
export const widened = ({ config, ...rest }: TinyConfig, ranks = 1): TinyConfig => {
  const widen = (fields: Readonly<Record<string, unknown>>): Record<string, unknown> => {
    const wide: Record<string, unknown> = { ...fields }
    if ("num_hidden_layers" in fields && "num_attention_heads" in fields && !("image_size" in fields)) wide["head_dim"] = 64
    if ("linear_key_head_dim" in fields) wide["linear_key_head_dim"] = 64
    if ("linear_value_head_dim" in fields) wide["linear_value_head_dim"] = fields["linear_value_head_dim"] === 32 ? 128 : 64
    if ("moe_intermediate_size" in fields) wide["moe_intermediate_size"] = 64 * ranks
    const shared = fields["shared_expert_intermediate_size"]
    if (typeof shared === "number") wide["shared_expert_intermediate_size"] = Math.ceil(shared / (8 * ranks)) * 8 * ranks
    if ("text_config" in fields) wide["text_config"] = widen(fields["text_config"] as Record<string, unknown>)
    return wide
  }
  return { ...rest, config: widen(config) }
}
