import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import { rankLayout } from "@uniprefill/placement/RankLayout"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { Effect } from "effect"
import { measuredCuda, modelShape, predictionFor } from "uniprefill/model/CostModels"
import { modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"
import { expect, it } from "vitest"

const { spec } = readModelConfig("config.json", {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 4096,
  intermediate_size: 14_336,
  num_hidden_layers: 32,
  num_attention_heads: 32,
  num_key_value_heads: 8,
  vocab_size: 128_256,
  max_position_embeddings: 131_072,
  rms_norm_eps: 1e-5,
})

/** A step of 64 decodes over 2,048 keys each, by what its time consists of. */
const termsOf = (device: string, ranks: number, quantization: ModelSettings["quantization"] = "none") => {
  const defaults = Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue])
  const settings = { ...Object.fromEntries(defaults), "tensor-parallel-size": ranks, quantization } as ModelSettings
  const predict = Effect.runSync(predictionFor(settings, device))
  const elements = { kvElementBytes: 2, carryElementBytes: 2 }
  const layout = rankLayout(spec, ranks, denseSchedule, { pageSize: 128, ...elements })
  const costs = predict({ shape: modelShape(settings, spec), layout, lastQ: 128, maxRowsPerStep: 8192 })
  const load = new StepLoad(1)
  load.decodeRows = 64
  load.addDecodes(0, 64, 2048)
  const terms = costs.terms(load)
  return (name: string) => terms.find((term) => term.name.includes(name))?.micros ?? 0
}

it("plans by one rank's work and its all-reduces, measured ones on CUDA devices", () => {
  const [one, two] = [termsOf("cuda (a device)", 1), termsOf("cuda (a device)", 2)]
  expect(one("all-reduces")).toBe(0)
  // 64 rows of 4,096 in 16 bits, twice in each layer: 8.8 µs peer to peer between two.
  expect(two("all-reduces")).toBeCloseTo(64 * 8.8, 6)
  expect(two("decode attention")).toBeCloseTo(one("decode attention") / 2, 6)
  // Each reads all of lm_head.
  expect(two("matrix products")).toBeGreaterThan(one("matrix products") / 2)
})

it("reads half the weights of layers in eight bits, and lm_head in 16", () => {
  const [sixteen, eight] = [termsOf("cuda (a device)", 1), termsOf("cuda (a device)", 1, "fp8")]
  const head = (2 * spec.hiddenSize * spec.vocabSize) / (1e6 * measuredCuda.copyTeraBytes)
  expect(eight("matrix products")).toBeCloseTo((sixteen("matrix products") + head) / 2, 3)
  expect(eight("decode attention")).toBe(sixteen("decode attention"))
})

it("gains nothing from ranks on the CPU, which share its threads and memory", () => {
  const [one, two] = [termsOf("cpu (2 threads)", 1), termsOf("cpu (2 threads) × 2", 2)]
  expect(two("all-reduces")).toBeGreaterThan(0)
  expect(two("decode attention")).toBeCloseTo(one("decode attention"), 6)
})
