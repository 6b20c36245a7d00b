import { supportedArchitectures } from "@uniprefill/model/families/Families"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import { attentionOf, layerKind } from "@uniprefill/model/ModelSpec"
import { parameterCount } from "@uniprefill/model/Parameters"
import { describe, expect, it } from "vitest"
import { tinyConfigs } from "../../../../test/golden/tinyConfigs.ts"
import { publishedConfigs } from "./publishedConfigs.ts"

const specOf = (config: object) => readModelConfig("config.json", config).spec
const tiny = (name: string, change: object = {}) => specOf({ ...tinyConfigs[name]!.config, ...change })
const text = (name: string, change: object) =>
  tiny(name, { text_config: { ...(tinyConfigs[name]!.config["text_config"] as object), ...change } })

describe("every architecture", () => {
  it("has a tiny model", () => {
    const named = Object.values(tinyConfigs).flatMap(({ config }) => config["architectures"] as Array<string>)
    // The dense and the sparse multimodal Qwen3.5 differ from these in their prefix alone.
    const untried = supportedArchitectures.filter((name) => !named.includes(name))
    expect(untried).toEqual(["Qwen3_5MoeForConditionalGeneration"])
  })

  it("and its published config are read; the parameters are those that the model's name or card says", () => {
    for (const [name, { config, billions }] of Object.entries(publishedConfigs)) {
      const count = parameterCount(specOf(config)) / 1e9
      expect([name, Math.abs(count / billions - 1) < 0.01, count, billions]).toEqual([name, true, count, billions])
    }
  })
})

describe("Llama", () => {
  it("is one kind of layer", () => {
    expect(tiny("llama-gqa").layers[0]).toEqual({
      norm: { eps: 1e-5, offset: 0 },
      postNorms: false,
      mixer: {
        kind: "full",
        window: 0,
        heads: 4,
        kvHeads: 2,
        headDim: 16,
        scale: 0.25,
        softCap: 0,
        rope: { theta: 10_000, dim: 16, scaling: { type: "none" } },
        qkNorm: null,
        outputGate: false,
        bias: "none",
      },
      mlp: { kind: "gated", activation: "silu", inner: 96, bias: false },
    })
  })

  it("of other names differs by windows, biases, q/k norm and experts", () => {
    const windows = (name: string, change?: object) => tiny(name, change).layers.map((l) => attentionOf(l)!.window)
    expect(windows("mistral-window")).toEqual([16, 16, 16])
    expect(windows("mistral-window", { sliding_window: null })).toEqual([0, 0, 0])
    expect(windows("qwen2-biases-tied")).toEqual([0, 24, 24])
    expect(windows("qwen2-biases-tied", { use_sliding_window: false })).toEqual([0, 0, 0])
    expect(windows("qwen2-biases-tied", { max_window_layers: undefined })).toEqual([0, 0, 0])
    const biases = ["llama-gqa", "llama-mqa-biases-llama3", "qwen2-biases-tied", "qwen3"]
    expect(biases.map((name) => attentionOf(tiny(name).layers[0]!)!.bias)).toEqual(["none", "qkvo", "qkv", "none"])
    expect(attentionOf(tiny("qwen3").layers[0]!)!.qkNorm).toEqual({ eps: 1e-5, offset: 0 })
    expect(attentionOf(tiny("qwen3", { head_dim: undefined }).layers[0]!)!.headDim).toBe(128)
    expect(tiny("qwen3-moe").layers.map(({ mlp }) => mlp.kind)).toEqual(["moe", "gated", "moe", "moe"])
    expect(tiny("qwen3-moe", { decoder_sparse_step: 2 }).layers.map(({ mlp }) => mlp.kind)).toEqual([
      "gated",
      "gated",
      "gated",
      "moe",
    ])
    expect(tiny("qwen3-moe").layers[0]!.mlp).toEqual({
      kind: "moe",
      activation: "silu",
      experts: 8,
      topK: 2,
      inner: 32,
      renormalise: false,
      sharedInner: 0,
    })
  })
})

describe("Gemma 3", () => {
  const window = tiny("gemma3-window")

  it("scales its embedding by a factor of the weights' type, and norms on both sides", () => {
    expect(window.embeddingScale).toBe(9.8125)
    expect(specOf(publishedConfigs["gemma-3-12b"]!.config).embeddingScale).toBe(62)
    expect(window.layers[0]).toMatchObject({ norm: { eps: 1e-6, offset: 1 }, postNorms: true })
    expect(window.layers[0]!.mlp).toMatchObject({ activation: "gelu" })
    expect(window.tieWordEmbeddings).toBe(true)
  })

  it("sees everything in each sixth layer, a window elsewhere, with a rotation for each", () => {
    expect(window.layers.map(layerKind).join(" ")).toBe("sliding sliding sliding sliding sliding full sliding")
    const [sliding, full] = [attentionOf(window.layers[0]!)!, attentionOf(window.layers[5]!)!]
    expect([sliding.window, full.window]).toEqual([16, 0])
    expect(sliding.rope).toEqual({ theta: 1e4, dim: 32, scaling: { type: "none" } })
    expect(full.rope).toEqual({ theta: 1e6, dim: 32, scaling: { type: "linear", factor: 8 } })
    expect(full.scale).toBe(1 / Math.sqrt(24))
  })

  it("reads both forms of rotation alike, and what published configs leave out", () => {
    const nested = text("gemma3-multimodal", {
      rope_parameters: undefined,
      rope_theta: 1e6,
      rope_local_base_freq: 1e4,
      rope_scaling: { rope_type: "linear", factor: 8 },
    })
    expect(nested.layers).toEqual(tiny("gemma3-multimodal").layers)
    const published = specOf(publishedConfigs["gemma-3-4b"]!.config)
    expect(published).toMatchObject({ vocabSize: 262_208, maxPositions: 131_072, finalNorm: { eps: 1e-6, offset: 1 } })
    expect(attentionOf(published.layers[0]!)).toMatchObject({ heads: 8, kvHeads: 4, headDim: 256, window: 1024 })
    expect(attentionOf(published.layers[5]!)!.rope).toMatchObject({ theta: 1e6, scaling: { factor: 8 } })
    // 27B: not 1/√d.
    expect(attentionOf(specOf(publishedConfigs["gemma-3-27b"]!.config).layers[0]!)!.scale).toBe(1 / Math.sqrt(168))
  })

  it("caps scores and logits where it is told to", () => {
    const capped = text("gemma3-multimodal", { attn_logit_softcapping: 8, final_logit_softcapping: 12.5 })
    expect([attentionOf(capped.layers[0]!)!.softCap, capped.logitSoftCap]).toEqual([8, 12.5])
  })
})

describe("Qwen3.5 and Qwen3-Next", () => {
  it("attend in each fourth layer, gated, with a quarter of each head rotated", () => {
    const { layers } = specOf(publishedConfigs["qwen3.5-9b"]!.config)
    expect(layers.slice(0, 4).map(layerKind)).toEqual(["state", "state", "state", "full"])
    expect(layers[3]!.mixer).toMatchObject({
      heads: 16,
      kvHeads: 4,
      headDim: 256,
      scale: 1 / 16,
      outputGate: true,
      qkNorm: { eps: 1e-6, offset: 1 },
      rope: { theta: 1e7, dim: 64, scaling: { type: "none" } },
    })
    expect(layers[0]!.mixer).toEqual({
      kind: "delta",
      keyHeads: 16,
      valueHeads: 32,
      keyDim: 128,
      valueDim: 128,
      convKernel: 4,
      grouped: false,
      normaliseInput: "float",
      normEps: 1e-6,
    })
  })

  it("have experts in every layer, or in some of Qwen3-Next", () => {
    const fused = tiny("qwen3.5-moe-fused")
    expect(fused.layers.every(({ mlp }) => mlp.kind === "moe" && mlp.renormalise && mlp.sharedInner === 48)).toBe(true)
    const next = tiny("qwen3-next", { norm_topk_prob: false })
    expect(next.layers.map(({ mlp }) => mlp.kind)).toEqual(["moe", "gated", "moe", "moe", "moe"])
    expect(next.layers[0]!.mlp).toMatchObject({ renormalise: false, topK: 3 })
    expect(next.layers[0]!.mixer).toMatchObject({ grouped: true })
  })
})

describe("names of tensors", () => {
  const namesOf = (name: string) => {
    const { config, like } = tinyConfigs[name]!
    const { spec, family } = readModelConfig("config.json", config)
    return family.tensors(spec, new Set(like ?? []))
  }

  it("of a Llama are in the order that fingerprints read", () => {
    const { layers, ...top } = namesOf("llama-mqa-biases-llama3")
    expect(Object.entries(layers[1]!)).toEqual([
      ["inputNorm", "model.layers.1.input_layernorm.weight"],
      ["mlpNorm", "model.layers.1.post_attention_layernorm.weight"],
      ["q", "model.layers.1.self_attn.q_proj.weight"],
      ["k", "model.layers.1.self_attn.k_proj.weight"],
      ["v", "model.layers.1.self_attn.v_proj.weight"],
      ["o", "model.layers.1.self_attn.o_proj.weight"],
      ["gate", "model.layers.1.mlp.gate_proj.weight"],
      ["up", "model.layers.1.mlp.up_proj.weight"],
      ["down", "model.layers.1.mlp.down_proj.weight"],
      ["qBias", "model.layers.1.self_attn.q_proj.bias"],
      ["kBias", "model.layers.1.self_attn.k_proj.bias"],
      ["vBias", "model.layers.1.self_attn.v_proj.bias"],
      ["oBias", "model.layers.1.self_attn.o_proj.bias"],
      ["gateBias", "model.layers.1.mlp.gate_proj.bias"],
      ["upBias", "model.layers.1.mlp.up_proj.bias"],
      ["downBias", "model.layers.1.mlp.down_proj.bias"],
    ])
    expect(top).toEqual({
      embedding: "model.embed_tokens.weight",
      finalNorm: "model.norm.weight",
      lmHead: "lm_head.weight",
      ignore: ["*.rotary_emb.inv_freq"],
    })
    expect(namesOf("llama-mha-tied-linear")).toMatchObject({
      lmHead: "model.embed_tokens.weight",
      ignore: ["*.rotary_emb.inv_freq", "lm_head.weight"],
    })
  })

  it("of a Gemma norm four times; a multimodal one's have a prefix, by what is there", () => {
    const { layers, lmHead, ignore } = namesOf("gemma3-multimodal")
    expect(layers[0]).toMatchObject({
      inputNorm: "language_model.model.layers.0.input_layernorm.weight",
      postAttentionNorm: "language_model.model.layers.0.post_attention_layernorm.weight",
      mlpNorm: "language_model.model.layers.0.pre_feedforward_layernorm.weight",
      postMlpNorm: "language_model.model.layers.0.post_feedforward_layernorm.weight",
      qNorm: "language_model.model.layers.0.self_attn.q_norm.weight",
    })
    expect(lmHead).toBe("language_model.model.embed_tokens.weight")
    expect(ignore).toContain("vision_tower.*")
    const { spec, family } = readModelConfig("config.json", tinyConfigs["gemma3-multimodal"]!.config)
    const saved = family.tensors(spec, new Set(["model.language_model.embed_tokens.weight"]))
    expect(saved.layers[0]!["q"]).toBe("model.language_model.layers.0.self_attn.q_proj.weight")
  })

  it("of a DeltaNet layer are grouped in Qwen3-Next alone", () => {
    expect(Object.keys(namesOf("qwen3.5-tied").layers[0]!).join(" ")).toBe(
      "inputNorm mlpNorm qkv z b a conv aLog dtBias deltaNorm out gate up down",
    )
    expect(namesOf("qwen3.5-multimodal").layers[0]).toMatchObject({
      aLog: "model.language_model.layers.0.linear_attn.A_log",
      conv: "model.language_model.layers.0.linear_attn.conv1d.weight",
    })
    expect(Object.keys(namesOf("qwen3-next").layers[0]!).join(" ")).toBe(
      "inputNorm mlpNorm qkvz ba conv aLog dtBias deltaNorm out router expertGate expertUp expertDown sharedGate sharedUp sharedDown sharedExpertGate",
    )
  })

  it("of experts are fused or one by one, by what is there", () => {
    expect(namesOf("qwen3.5-moe-fused").layers[2]).toMatchObject({
      router: "model.layers.2.mlp.gate.weight",
      expertGateUp: "model.layers.2.mlp.experts.gate_up_proj",
      expertDown: "model.layers.2.mlp.experts.down_proj",
      sharedExpertGate: "model.layers.2.mlp.shared_expert_gate.weight",
    })
    expect(namesOf("qwen3.5-moe").layers[2]).toMatchObject({
      expertUp: "model.layers.2.mlp.experts.{e}.up_proj.weight",
    })
  })
})

describe("refused by name", () => {
  const llama = tinyConfigs["llama-gqa"]!.config
  const gemma = tinyConfigs["gemma3-window"]!.config
  const moe = tinyConfigs["qwen3.5-moe"]!.config
  const supported = `supported: ${supportedArchitectures.join(", ")}`

  it.each([
    ["GptOssForCausalLM"],
    ["Gemma4ForConditionalGeneration"],
    ["DeepseekV3ForCausalLM"],
    ["Gemma2ForCausalLM"],
  ])("the family of %s, with what is supported", (name) => {
    expect(() => specOf({ ...llama, architectures: [name] })).toThrow(
      `config.json: architectures: names ${name}; ${supported}`,
    )
  })

  it.each<[string, object, string]>([
    ["a field that Llama does not know", { ...llama, kv_lora_rank: 512 }, "kv_lora_rank: LlamaForCausalLM has no such"],
    [
      "biases that Mistral has not",
      { ...mistral(), attention_bias: true },
      "attention_bias: MistralForCausalLM has no",
    ],
    ["a list of windows in a Llama", { ...llama, layer_types: ["sliding_attention"] }, "layer_types: LlamaForCausalLM"],
    ["code of its own", { ...llama, auto_map: { AutoModel: "x.Y" } }, "auto_map: LlamaForCausalLM has no such field"],
    ["a scaling of rotations", { ...llama, rope_scaling: { rope_type: "yarn" } }, 'rope_scaling.rope_type: "yarn"'],
    ["a field of it", { ...llama, rope_scaling: { rope_type: "linear", factor: 2, beta_fast: 1 } }, ".beta_fast"],
    ["an activation", { ...gemma, hidden_activation: "gelu" }, 'hidden_activation: "gelu"; supported: "gelu_pytorch'],
    ["attention both ways", { ...gemma, use_bidirectional_attention: true }, "use_bidirectional_attention: true"],
    ["a kind of layer", { ...gemma, layer_types: Array(7).fill("chunked_attention") }, 'layer_types.0: "chunked_att'],
    [
      "a list of the wrong length",
      { ...gemma, layer_types: ["full_attention"] },
      "lists 1 layers, num_hidden_layers is 7",
    ],
    [
      "settings of rotation for no type",
      { ...gemma, rope_parameters: { rope_theta: 1 } },
      "rope_parameters.rope_theta",
    ],
    ["more experts than there are", { ...moe, num_experts_per_tok: 9 }, "num_experts_per_tok: 9 of 8 experts"],
    ["dense layers in Qwen3.5", { ...moe, mlp_only_layers: [2] }, "mlp_only_layers: names layer 2"],
    ["heads that do not share", { ...moe, linear_num_value_heads: 3 }, "linear_num_value_heads: 3 is no multiple of"],
    ["attention without its gate", { ...moe, attn_output_gate: false }, "attn_output_gate: false; supported: true"],
    ["an odd part rotated", { ...moe, rope_parameters: { partial_rotary_factor: 0.1 } }, "partial_rotary_factor: 0.1"],
    ["nothing under text_config", { ...nested(), text_config: null }, "text_config: "],
    ["a nested size that is missing", { ...nested(), text_config: {} }, "text_config.hidden_size: Missing key"],
    ["quantised weights inside", { ...nested(), text_config: { quantization_config: {} } }, "text_config.quantization"],
    ["no architectures", { ...llama, architectures: undefined }, "architectures: missing, or not a list"],
    ["no object", [], "a configuration is a JSON object"],
  ])("%s", (_, config, message) => {
    expect(() => specOf(config)).toThrow(message)
  })

  it("but not what is null or false, or changes nothing", () => {
    const more = { some_switch: false, some_size: null, use_cache: true, temperature: 0.6, output_attentions: false }
    expect(specOf({ ...llama, ...more })).toEqual(specOf(llama))
  })

  function mistral() {
    return tinyConfigs["mistral-window"]!.config
  }
  function nested() {
    return tinyConfigs["qwen3.5-multimodal"]!.config
  }
})
