import { readFileSync } from "node:fs"
import { modelPresets } from "@uniprefill/simulator/model/ModelPresets"
import { decodeShape } from "@uniprefill/simulator/model/PublishedConfig"
import { attentionOf, layerKind } from "@uniprefill/model/ModelSpec"
import { parameterCount } from "@uniprefill/model/Parameters"
import { StepLoad, windowsOf } from "@uniprefill/scheduler/StepLoad"
import { driverConfig } from "@uniprefill/simulator/Setup"
import { describe, expect, it } from "vitest"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults } from "@uniprefill/simulator/scenario/Scenario"

import { publishedConfigs } from "../../model/test/families/publishedConfigs.ts"

/** A decoder of no family that is served: only its sizes are read. */
const sizes = {
  architectures: ["SomeForCausalLM"],
  hidden_size: 4096,
  intermediate_size: 14_336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  vocab_size: 128_256,
  max_position_embeddings: 131_072,
  rope_scaling: { rope_type: "llama3", factor: 8 },
  tie_word_embeddings: false,
}

const others: Readonly<Record<string, { readonly config: object; readonly billions: number }>> = {
  "llama-3.1-70b": {
    billions: 70.55,
    config: {
      ...publishedConfigs["llama-3.1-8b"]!.config,
      hidden_size: 8192,
      intermediate_size: 28_672,
      num_attention_heads: 64,
      num_hidden_layers: 80,
    },
  },
  "mixtral-8x7b": {
    billions: 46.7,
    config: {
      ...sizes,
      architectures: ["MixtralForCausalLM"],
      num_local_experts: 8,
      num_experts_per_tok: 2,
      vocab_size: 32_000,
      max_position_embeddings: 32_768,
      sliding_window: null,
      rope_scaling: null,
      rope_theta: 1e6,
      router_aux_loss_coef: 0.02,
    },
  },
  "gemma-2-9b": {
    billions: 9.24,
    config: {
      architectures: ["Gemma2ForCausalLM"],
      attention_bias: false,
      attn_logit_softcapping: 50,
      final_logit_softcapping: 30,
      head_dim: 256,
      hidden_act: "gelu_pytorch_tanh",
      hidden_activation: "gelu_pytorch_tanh",
      hidden_size: 3584,
      intermediate_size: 14_336,
      max_position_embeddings: 8192,
      num_attention_heads: 16,
      num_hidden_layers: 42,
      num_key_value_heads: 8,
      query_pre_attn_scalar: 256,
      rms_norm_eps: 1e-6,
      rope_theta: 10_000,
      sliding_window: 4096,
      sliding_window_size: null,
      vocab_size: 256_000,
    },
  },
}

const shapeOf = (config: object) => decodeShape("c.json", config)
const billions = (config: object) => parameterCount(shapeOf(config).spec) / 1e9

it.each([...modelPresets.keys()].filter((name) => name in publishedConfigs))(
  "the published configuration of %s is the preset",
  (name) => {
    const { layers, hiddenSize, vocabSize } = shapeOf(publishedConfigs[name]!.config).spec
    expect(modelPresets.get(name)!.shape.spec).toMatchObject({ layers, hiddenSize, vocabSize })
  },
)

it("sixteen published models have the parameters that their cards say, within 1%", () => {
  const all = { ...publishedConfigs, ...others }
  expect(Object.keys(all)).toHaveLength(16)
  for (const [name, { config, billions: said }] of Object.entries(all)) {
    expect([name, Math.abs(billions(config) / said - 1) < 0.01, billions(config)]).toEqual([
      name,
      true,
      billions(config),
    ])
  }
})

it("the embedded model's own file is read", () => {
  const file = new URL("../../needle-10m-deep/config.json", import.meta.url)
  const { spec } = decodeShape("config.json", JSON.parse(readFileSync(file, "utf8")))
  expect([spec.layers.length, spec.hiddenSize, attentionOf(spec.layers[0]!)?.kvHeads]).toEqual([16, 256, 2])
})

it("listed kinds of layers are what counts, and a window that is switched off is none", () => {
  const base = { ...sizes, num_hidden_layers: 3, sliding_window: 512 }
  const kinds = (config: object) => shapeOf(config).spec.layers.map(layerKind)
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
  it.each<[string, object, RegExp]>([
    ["a size that is missing", { ...sizes, hidden_size: undefined }, /c\.json.*hidden_size/s],
    ["a size that is text", { ...sizes, vocab_size: "many" }, /vocab_size.*"many"/s],
    ["heads that do not share", { ...sizes, num_key_value_heads: 5 }, /num_key_value_heads.*5 does not divide/s],
    ["latent attention", { ...sizes, kv_lora_rank: 512 }, /kv_lora_rank.*multi-head latent attention/s],
    ["quantised weights", { ...sizes, quantization_config: { bits: 4 } }, /quantization_config/],
    ["Mamba layers", { ...sizes, mamba_d_state: 128 }, /mamba_d_state.*Mamba/s],
    ["lists of lightning attention (MiniMax-01)", { ...sizes, attn_type_list: [0, 1] }, /attn_type_list.*lightning/s],
    ["an ungated MLP with LayerNorm (Pythia)", pythia(), /layer_norm_eps.*no gate/s],
    ["an ungated MLP with every field known (Arcee)", { ...sizes, hidden_act: "relu2" }, /hidden_act.*relu2/s],
    ["an ungated MLP by its activation", { ...sizes, hidden_act: "gelu_new" }, /hidden_act.*gelu_new/s],
    ["another kind of layer", { ...sizes, layer_types: Array(32).fill("conv") }, /layer_types\.0.*"conv"/s],
    ["a list of the wrong length", { ...sizes, layer_types: ["full_attention"] }, /lists 1 layers.*32/s],
    ["a window of no size", { ...sizes, layer_types: Array(32).fill("sliding_attention") }, /sliding_window.*absent/s],
    ["more experts than there are", { ...sizes, num_experts: 4, num_experts_per_tok: 8 }, /8 of 4 experts/],
    ["layers that share K and V (Gemma 4)", { ...sizes, num_kv_shared_layers: 4 }, /num_kv_shared_layers/],
    ["no object", [], /c\.json/],
  ])("%s", (_, config, message) => {
    expect(() => shapeOf(config)).toThrow(message)
  })

  function pythia() {
    return {
      ...sizes,
      architectures: ["GPTNeoXForCausalLM"],
      rotary_pct: 0.25,
      use_parallel_residual: true,
      layer_norm_eps: 1e-5,
    }
  }
})

it("a window longer than every prompt costs what full attention does", () => {
  const read = (config: object) => () => JSON.stringify(config)
  const micros = (sliding_window: number | null) => {
    const scenario = withDefaults({ model: "m.json", schedule: "off", host: { launchMicros: 0 } })
    const { setup } = buildExperiment(scenario, read({ ...sizes, sliding_window }))
    const { costModel, layout } = driverConfig(setup)
    const prefill = new StepLoad(1, windowsOf(layout))
    prefill.items = 1
    prefill.addRows(1, 0, 0, 1024, 1024, 0)
    const decode = new StepLoad(1, windowsOf(layout))
    decode.decodeRows = 8
    for (let row = 0; row < 8; row++) decode.joinDecode(0, 1024)
    return [costModel.stepMicros(prefill), costModel.stepMicros(decode)]
  }
  const [full, long, short] = [micros(null), micros(262_144), micros(128)]
  // Attention's rate is that of the average keys of full layers' rows, so prefill may differ in the last digits.
  expect(long[1]).toBe(full[1])
  expect(long[0]! / full[0]!).toBeCloseTo(1, 1)
  expect(short[1]!).toBeLessThan(full[1]!)
})

it("a scenario serves a model from its file, dense unless a schedule is named", () => {
  const read = (file: string) => JSON.stringify(file === "mixtral.json" ? others["mixtral-8x7b"]!.config : {})
  const { setup, workload } = buildExperiment(withDefaults({ model: "mixtral.json", device: "h200" }), read)
  expect(setup.model.spec.layers[0]!.mlp).toMatchObject({ experts: 8, topK: 2, inner: 14_336, sharedInner: 0 })
  expect(setup.schedule.dropLayers).toEqual([])
  expect(workload.count).toBeGreaterThan(0)
})
