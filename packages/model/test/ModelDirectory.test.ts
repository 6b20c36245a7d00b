import { NodeServices } from "@effect/platform-node"
import { expect, it } from "@effect/vitest"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import type { ModelError } from "@uniprefill/model/ModelError"
import { Effect, FileSystem } from "effect"
import { fileURLToPath } from "node:url"

const embedded = fileURLToPath(new URL("../../needle-10m-deep", import.meta.url))

const config = {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 4,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  vocab_size: 300,
  max_position_embeddings: 512,
  rms_norm_eps: 1e-5,
  eos_token_id: 2,
}
const schedule = { format: "uniprefill-schedule", version: 1, dropLayers: [{ layer: 1, p: 0.9 }] }

/** Loads a directory `m` with these files beside config.json and one file of weights; null takes a file away. */
const load = (files: Record<string, unknown>, dropSchedule?: string) =>
  Effect.gen(function* () {
    const fileSystem = yield* FileSystem.FileSystem
    const directory = yield* fileSystem.makeTempDirectoryScoped()
    const all = { "config.json": config, "model.safetensors": "", ...files }
    for (const [name, content] of Object.entries(all)) {
      if (content === null) continue
      yield* fileSystem.writeFileString(
        `${directory}/${name}`,
        typeof content === "string" ? content : JSON.stringify(content),
      )
    }
    return yield* loadModelDirectory(directory, { dropSchedule }).pipe(
      Effect.mapError((error: ModelError) => error.message.replaceAll(`${directory}/`, "")),
    )
  })

const refused = (files: Record<string, unknown>, message: string, dropSchedule?: string) =>
  Effect.gen(function* () {
    expect(yield* Effect.flip(load(files, dropSchedule))).toBe(message)
  })

it.layer(NodeServices.layer)("loadModelDirectory", (it) => {
  it.effect("reads the embedded model", () =>
    Effect.gen(function* () {
      const model = yield* loadModelDirectory(embedded)
      expect(model.spec).toMatchObject({ hiddenSize: 256, vocabSize: 4096, tieWordEmbeddings: true })
      expect(model.spec.layers[15]!.mixer).toMatchObject({ heads: 4, kvHeads: 2, headDim: 64, scale: 0.125 })
      expect(model.spec.layers).toHaveLength(16)
      expect(model.eosTokenIds).toEqual([1, 201])
      expect(model.schedule.dropLayers).toEqual([7, 10, 13].map((layer) => ({ layer, p: 0.9 })))
      expect(model.weights).toHaveLength(4)
      expect(model.generation.temperature).toBe(0)
    }),
  )

  it.effect("is dense without a schedule file, and when told off", () =>
    Effect.gen(function* () {
      const none = yield* load({})
      expect([none.scheduleSource, none.schedule.dropLayers]).toEqual(["none", []])
      const off = yield* load({ "uniprefill.json": schedule }, "off")
      expect([off.scheduleSource, off.schedule.dropLayers]).toEqual(["off", []])
      expect((yield* load({ "uniprefill.json": schedule })).schedule.dropLayers).toHaveLength(1)
    }),
  )

  it.effect("takes end tokens from generation_config.json first", () =>
    Effect.gen(function* () {
      expect((yield* load({})).spec.eosTokenIds).toEqual([2])
      const both = yield* load({ "generation_config.json": { eos_token_id: [3, 4], temperature: 0.6, top_p: 0.9 } })
      expect(both.spec.eosTokenIds).toEqual([3, 4])
      expect(both.generation).toMatchObject({ temperature: 0.6, topP: 0.9, topK: undefined })
    }),
  )

  it.effect("reads both homes of rope settings", () =>
    Effect.gen(function* () {
      const llama3 = { factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 128 }
      const old = { ...config, rope_theta: 5e5, rope_scaling: { rope_type: "llama3", ...llama3 } }
      const recent = { ...config, rope_parameters: { rope_type: "llama3", rope_theta: 5e5, ...llama3 } }
      const expected = {
        theta: 5e5,
        dim: 16,
        scaling: { type: "llama3", factor: 8, lowFreqFactor: 1, highFreqFactor: 4, originalMaxPositions: 128 },
      }
      expect((yield* load({ "config.json": old })).spec.layers[3]!.mixer).toMatchObject({ rope: expected })
      expect((yield* load({ "config.json": recent })).spec.layers[3]!.mixer).toMatchObject({ rope: expected })
    }),
  )

  it.effect.each([
    [{ "config.json": null }, "config.json: no such file; every model directory has one"],
    [{ "config.json": '{\n  "a": 1,\n}' }, 'config.json: not JSON: line 3 column 1: found "}", expected key'],
    [{ "config.json": { ...config, hidden_size: "64" } }, 'config.json: hidden_size: Expected number, got "64"'],
    [
      { "config.json": { ...config, vocab_size: 0 } },
      "config.json: vocab_size: Expected a value greater than 0, got 0",
    ],
    [
      { "config.json": { ...config, num_key_value_heads: 3 } },
      "config.json: num_key_value_heads: 3 does not divide num_attention_heads 4",
    ],
    [
      { "config.json": { ...config, num_attention_heads: 6 } },
      "config.json: head_dim: absent, and hidden_size 64 / num_attention_heads 6 is 10.666666666666666, not a whole number",
    ],
    [
      { "config.json": { ...config, architectures: ["MambaForCausalLM"] } },
      "config.json: architectures: names MambaForCausalLM; supported: LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM, Qwen3MoeForCausalLM, Gemma3ForCausalLM, Gemma3ForConditionalGeneration, Qwen3_5ForCausalLM, Qwen3_5ForConditionalGeneration, Qwen3_5MoeForCausalLM, Qwen3_5MoeForConditionalGeneration, Qwen3NextForCausalLM",
    ],
    [
      { "config.json": { ...config, quantization_config: { quant_method: "awq" } } },
      'config.json: quantization_config.quant_method: "awq" is not read, "fp8" and "compressed-tensors" are',
    ],
    [
      { "config.json": { ...config, rope_scaling: { rope_type: "yarn", factor: 4 } } },
      'config.json: rope_scaling.rope_type: "yarn"; supported: "default", "linear", "llama3"',
    ],
    [
      { "config.json": { ...config, rope_scaling: { type: "linear" } } },
      "config.json: rope_scaling.factor: missing; linear needs it",
    ],
    [{ "config.json": { ...config, hidden_act: "gelu" } }, 'config.json: hidden_act: "gelu"; supported: "silu"'],
    [
      { "config.json": { ...config, eos_token_id: 300 } },
      "config.json: eos_token_id: 300 is not in the vocabulary of 300 tokens",
    ],
    [{ "model.safetensors": null }, "model.safetensors: no such file; the model has no weights"],
    [
      { "model.safetensors.index.json": { weight_map: { a: "x-1.safetensors", b: "x-1.safetensors" } } },
      "x-1.safetensors: no such file; model.safetensors.index.json has 2 tensors in it",
    ],
  ] as const)("refuses %j", ([files, message]) => refused(files, message))

  it.effect.each([
    [{ layer: 4, p: 0.9 }, "dropLayers.0.layer: 4; the model has layers 0 to 3"],
    [
      { layer: 3, p: 0.9 },
      "dropLayers.0.layer: 3 is the last layer, which computes no more rows than are asked for anyway; drop earlier or not at all",
    ],
    [{ layer: 1, p: 1.5 }, "dropLayers.0.p: Expected a value between 0 and 1, got 1.5"],
    [{ layer: -1, p: 0.5 }, "dropLayers.0.layer: Expected a value greater than or equal to 0, got -1"],
  ] as const)("refuses the drop layer %j", ([drop, message]) =>
    refused({ "uniprefill.json": { ...schedule, dropLayers: [drop] } }, `uniprefill.json: ${message}`),
  )

  it.effect("refuses drop layers out of order, odd blocks and misspelt keys", () =>
    Effect.gen(function* () {
      const twice = [
        { layer: 2, p: 1 },
        { layer: 1, p: 1 },
      ]
      const order = "uniprefill.json: dropLayers.1.layer: 1 after 2; drop layers ascend"
      yield* refused({ "uniprefill.json": { ...schedule, dropLayers: twice } }, order)
      const block = "uniprefill.json: block: 96 is not a positive multiple of 64"
      yield* refused({ "uniprefill.json": { ...schedule, block: 96 } }, block)
      const lastQ = "uniprefill.json: lastQ: 0 is not in 1 to 512"
      yield* refused({ "uniprefill.json": { ...schedule, lastQ: 0 } }, lastQ)
      yield* refused({ "uniprefill.json": { ...schedule, sinks: 4 } }, "uniprefill.json: sinks: there is no such field")
      const version = "uniprefill.json: version: Expected 1, got 2"
      yield* refused({ "uniprefill.json": { ...schedule, version: 2 } }, version)
    }),
  )

  it.effect("refuses a preset that the model cannot carry out, an unknown one and a missing file", () =>
    Effect.gen(function* () {
      const preset = "preset llama-3.1-8b: dropLayers.0.layer: 7; the model has layers 0 to 3"
      yield* refused({}, preset, "preset:llama-3.1-8b")
      const known = "llama-3.1-8b, gemma-3-12b, qwen3-next-80b-a3b"
      yield* refused({}, `drop schedule: no preset "x"; presets: ${known}`, "preset:x")
      const file = "/nowhere/s.json: no such file; a drop schedule is `off`, `preset:NAME` or a file"
      yield* refused({}, file, "/nowhere/s.json")
    }),
  )

  it.effect("refuses a file as a directory, and tells what cannot be read once", () =>
    Effect.gen(function* () {
      const file = yield* Effect.flip(loadModelDirectory(`${embedded}/config.json`))
      expect(file.message).toBe(
        `${embedded}/config.json: a model is a directory with config.json, tokenizer.json and *.safetensors; this is a file`,
      )
      const fileSystem = yield* FileSystem.FileSystem
      const directory = yield* fileSystem.makeTempDirectoryScoped()
      yield* fileSystem.makeDirectory(`${directory}/config.json`)
      const unreadable = yield* Effect.flip(loadModelDirectory(directory))
      expect(unreadable.message).toBe(`${directory}/config.json: EISDIR: illegal operation on a directory, read`)
    }),
  )

  it.effect("says how to download a hub id", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(loadModelDirectory("some-org/some-model"))
      expect(error.reason).toBe("MissingFile")
      expect(error.message).toContain("hf download some-org/some-model --local-dir DIR")
    }),
  )
})
