import { quantizedWeightsFault } from "@uniprefill/model/families/QuantizedWeights"
import { expect, it } from "vitest"

const channels = { num_bits: 8, type: "float", strategy: "channel", symmetric: true }
const compressed = (weights: object, format = "float-quantized") => ({
  quant_method: "compressed-tensors",
  format,
  config_groups: { group_0: { targets: ["Linear"], weights } },
})

it.each([
  { quant_method: "fp8", activation_scheme: "dynamic" },
  { quant_method: "fp8", fmt: "e4m3", weight_block_size: [128, 128], activation_scheme: "dynamic" },
  { quant_method: "fp8", weight_block_size: null, activation_scheme: "static" },
  compressed(channels),
  compressed({ ...channels, strategy: "block", block_structure: [128, 128] }),
])("%j is read", (config) => {
  expect(quantizedWeightsFault(config)).toBeNull()
})

it.each([
  [{}, "quant_method", "nothing is not read"],
  [{ quant_method: "gptq", bits: 4 }, "quant_method", '"gptq" is not read'],
  [{ quant_method: "fp8", fmt: "e5m2" }, "fmt", '"e5m2" is not read'],
  [{ quant_method: "fp8", weight_block_size: [64, 64] }, "weight_block_size", "[64,64] is not read"],
  [compressed(channels, "pack-quantized"), "format", '"pack-quantized" is not read'],
  [compressed({ ...channels, num_bits: 4 }), "config_groups.group_0.weights", "floats of 8 bits are"],
  [compressed({ ...channels, type: "int" }), "config_groups.group_0.weights", "floats of 8 bits are"],
  [compressed({ ...channels, block_structure: [1, 128] }), "config_groups.group_0.weights", "floats of 8 bits are"],
] as const)("%j is refused by %s", (config, field, detail) => {
  expect(quantizedWeightsFault(config)).toMatchObject({ field, detail: expect.stringContaining(detail) as string })
})
