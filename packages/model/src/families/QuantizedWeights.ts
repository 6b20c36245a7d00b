import type { JsonObject } from "./Config.ts"

/**
 * What keeps the weights that config.json's `quantization_config` announces from being read, or null. Matrices in e4m3 with a scale for
 * all, for each row or for each block of 128 × 128 are: `quant_method` `fp8` (vLLM, DeepSeek, Qwen) and `compressed-tensors` in format
 * `float-quantized`. Scales of activations are not used; a checkpoint with scales for K and V is refused by its tensors.
 */
export const quantizedWeightsFault = (
  config: JsonObject,
): { readonly field: string; readonly detail: string } | null => {
  const fault = (field: string, detail: string) => ({ field, detail })
  const shown = (value: unknown) => (JSON.stringify(value) ?? "nothing").slice(0, 80)
  const { quant_method: method } = config
  if (method === "fp8") {
    const { fmt, weight_block_size: block } = config
    if (fmt !== undefined && fmt !== "e4m3") return fault("fmt", `${shown(fmt)} is not read, "e4m3" is`)
    return isBlock(block ?? null) ? null : fault("weight_block_size", `${shown(block)} is not read, [128,128] is`)
  }
  if (method === "compressed-tensors") {
    if (config["format"] !== "float-quantized")
      return fault("format", `${shown(config["format"])} is not read, "float-quantized" is`)
    for (const [name, group] of Object.entries((config["config_groups"] ?? {}) as JsonObject)) {
      const weights = ((group as JsonObject | null)?.["weights"] ?? {}) as JsonObject
      const is = weights["num_bits"] === 8 && weights["type"] === "float" && isBlock(weights["block_structure"] ?? null)
      if (!is) return fault(`config_groups.${name}.weights`, `${shown(weights)} is not read, floats of 8 bits are`)
    }
    return null
  }
  return fault("quant_method", `${shown(method)} is not read, "fp8" and "compressed-tensors" are`)
}

const isBlock = (size: unknown): boolean =>
  size === null || (Array.isArray(size) && size.length === 2 && size.every((each) => each === 128))
