import { inSixteenBits, type ModelShape } from "@uniprefill/cost-model/ModelShape"
import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import { schedulePresets } from "@uniprefill/model/SchedulePresets"

export interface ModelPreset {
  readonly name: string
  readonly shape: ModelShape
  /** The paper's schedule; dense where it names none. */
  readonly schedule: DropSchedule
}

const llama = {
  architectures: ["LlamaForCausalLM"],
  num_key_value_heads: 8,
  vocab_size: 128_256,
  max_position_embeddings: 131_072,
  rms_norm_eps: 1e-5,
  rope_theta: 500_000,
  rope_scaling: {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  },
  tie_word_embeddings: false,
  eos_token_id: [128_001, 128_008, 128_009],
}

/** What the published config.json of each says, as far as a family reads it. */
const published = {
  "llama-3.1-8b": {
    ...llama,
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
  },
  "llama-3.1-70b": {
    ...llama,
    hidden_size: 8192,
    intermediate_size: 28_672,
    num_hidden_layers: 80,
    num_attention_heads: 64,
  },
  "gemma-3-12b": {
    architectures: ["Gemma3ForConditionalGeneration"],
    eos_token_id: [1, 106],
    text_config: {
      hidden_size: 3840,
      intermediate_size: 15_360,
      num_hidden_layers: 48,
      num_attention_heads: 16,
      num_key_value_heads: 8,
      head_dim: 256,
      sliding_window: 1024,
      rope_scaling: { rope_type: "linear", factor: 8 },
    },
  },
  "qwen3-next-80b-a3b": {
    architectures: ["Qwen3NextForCausalLM"],
    hidden_size: 2048,
    intermediate_size: 5120,
    num_hidden_layers: 48,
    num_attention_heads: 16,
    num_key_value_heads: 2,
    head_dim: 256,
    vocab_size: 151_936,
    max_position_embeddings: 262_144,
    rope_theta: 10_000_000,
    partial_rotary_factor: 0.25,
    linear_num_key_heads: 16,
    linear_num_value_heads: 32,
    num_experts: 512,
    num_experts_per_tok: 10,
    moe_intermediate_size: 512,
    shared_expert_intermediate_size: 512,
    eos_token_id: 151_645,
  },
}

/** Models by name. */
export const modelPresets: ReadonlyMap<string, ModelPreset> = new Map(
  Object.entries(published).map(([name, config]) => {
    const shape = inSixteenBits(readModelConfig(name, config).spec)
    return [name, { name, shape, schedule: schedulePresets.get(name) ?? denseSchedule }]
  }),
)
