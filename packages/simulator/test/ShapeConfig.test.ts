import { readFileSync } from "node:fs"
import { modelPresets } from "@uniprefill/simulator/model/ModelPresets"
import { decodeShape } from "@uniprefill/simulator/model/ShapeConfig"
import { weightBytes } from "@uniprefill/cost-model/ModelShape"
import { attentionOf, layerKind } from "@uniprefill/model/ModelSpec"
import { layerParameters } from "@uniprefill/model/Parameters"
import { describe, expect, it } from "vitest"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults } from "@uniprefill/simulator/scenario/Scenario"

/** The sizes in the published config.json of each preset. */
const published = {
  "llama-3.1-8b": {
    architectures: ["LlamaForCausalLM"],
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    num_key_value_heads: 8,
    vocab_size: 128_256,
    max_position_embeddings: 131_072,
    rope_scaling: { rope_type: "llama3", factor: 8 },
    tie_word_embeddings: false,
  },
  "gemma-3-12b": {
    architectures: ["Gemma3ForConditionalGeneration"],
    text_config: {
      hidden_size: 3840,
      intermediate_size: 15_360,
      num_hidden_layers: 48,
      num_attention_heads: 16,
      num_key_value_heads: 8,
      head_dim: 256,
      sliding_window: 1024,
      sliding_window_pattern: 6,
      vocab_size: 262_208,
      max_position_embeddings: 131_072,
      tie_word_embeddings: true,
    },
    vision_config: { hidden_size: 1152 },
  },
  "qwen3-next-80b-a3b": {
    architectures: ["Qwen3NextForCausalLM"],
    decoder_sparse_step: 1,
    full_attention_interval: 4,
    head_dim: 256,
    hidden_size: 2048,
    intermediate_size: 5120,
    linear_conv_kernel_dim: 4,
    linear_key_head_dim: 128,
    linear_num_key_heads: 16,
    linear_num_value_heads: 32,
    linear_value_head_dim: 128,
    max_position_embeddings: 262_144,
    moe_intermediate_size: 512,
    num_attention_heads: 16,
    num_experts: 512,
    num_experts_per_tok: 10,
    num_hidden_layers: 48,
    num_key_value_heads: 2,
    shared_expert_intermediate_size: 512,
    vocab_size: 151_936,
    tie_word_embeddings: false,
  },
} as const

/** What costs and memory are computed from. */
const sizes = (shape: ReturnType<typeof decodeShape>) => {
  const { hiddenSize, vocabSize, maxPositions, layers } = shape.spec
  const work = layers.map((layer) => {
    const { small: _, ...parameters } = layerParameters(shape.spec, layer)
    const attention = attentionOf(layer)
    return { ...parameters, kind: layerKind(layer), window: attention?.window, heads: attention?.heads }
  })
  return { hiddenSize, vocabSize, maxPositions, work }
}

it.each(Object.entries(published))("the configuration of %s has the preset's sizes", (name, config) => {
  expect(sizes(decodeShape("config.json", config))).toEqual(sizes(modelPresets.get(name)!.shape))
})

it("the embedded model's own file is read", () => {
  const file = new URL("../../needle-10m-deep/config.json", import.meta.url)
  const { spec } = decodeShape("config.json", JSON.parse(readFileSync(file, "utf8")))
  expect([spec.layers.length, spec.hiddenSize, attentionOf(spec.layers[0]!)?.kvHeads]).toEqual([16, 256, 2])
})

it("listed kinds of layers are what counts, and a window that is switched off is none", () => {
  const base = { ...published["llama-3.1-8b"], num_hidden_layers: 3, sliding_window: 512 }
  const kinds = (config: object) => decodeShape("c.json", config).spec.layers.map(layerKind)
  expect(kinds({ ...base, layer_types: ["full_attention", "sliding_attention", "full_attention"] })).toEqual([
    "full",
    "sliding",
    "full",
  ])
  expect(kinds(base)).toEqual(["sliding", "sliding", "sliding"])
  expect(kinds({ ...base, use_sliding_window: false })).toEqual(["full", "full", "full"])
  expect(kinds({ ...base, architectures: ["Gemma2ForCausalLM"] })).toEqual(["sliding", "full", "sliding"])
})

describe("refuses, naming file and field,", () => {
  const llama = published["llama-3.1-8b"]
  it.each<[string, object, RegExp]>([
    ["a size that is missing", { ...llama, hidden_size: undefined }, /c\.json.*hidden_size/s],
    ["a size that is text", { ...llama, vocab_size: "many" }, /vocab_size.*"many"/s],
    ["heads that do not share", { ...llama, num_key_value_heads: 5 }, /num_key_value_heads.*5 does not divide 32/s],
    ["latent attention", { ...llama, kv_lora_rank: 512 }, /kv_lora_rank.*multi-head latent attention/s],
    ["quantised weights", { ...llama, quantization_config: { bits: 4 } }, /quantization_config/],
    ["another kind of layer", { ...llama, layer_types: Array(32).fill("conv") }, /layer_types\.0.*"conv"/s],
    ["a list of the wrong length", { ...llama, layer_types: ["full_attention"] }, /lists 1 layers.*32/s],
    ["a window of no size", { ...llama, layer_types: Array(32).fill("sliding_attention") }, /sliding_window.*absent/s],
    ["more experts than there are", { ...llama, num_experts: 4, num_experts_per_tok: 8 }, /8 of 4 experts/],
    [
      "dense layers among experts",
      { ...llama, n_routed_experts: 8, first_k_dense_replace: 1 },
      /first_k_dense_replace/,
    ],
    ["no object", [], /c\.json/],
  ])("%s", (_, config, message) => {
    expect(() => decodeShape("c.json", config)).toThrow(message)
  })
})

it("a scenario serves a model from its file, dense unless a schedule is named", () => {
  const read = (file: string) => JSON.stringify(file === "mixtral.json" ? mixtral : {})
  const { setup, workload } = buildExperiment(withDefaults({ model: "mixtral.json", device: "h200" }), read)
  expect(setup.model.spec.layers[0]!.mlp).toMatchObject({ experts: 8, topK: 2, inner: 14_336, sharedInner: 0 })
  expect(setup.schedule.dropLayers).toEqual([])
  // 46.7 billion parameters in 16 bits.
  expect(weightBytes(setup.model) / 2e9).toBeCloseTo(46.7, 1)
  expect(workload.count).toBeGreaterThan(0)
})

const mixtral = {
  ...published["llama-3.1-8b"],
  architectures: ["MixtralForCausalLM"],
  num_local_experts: 8,
  num_experts_per_tok: 2,
  vocab_size: 32_000,
  max_position_embeddings: 32_768,
  sliding_window: null,
}
