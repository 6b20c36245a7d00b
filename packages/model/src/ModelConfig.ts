import { Effect } from "effect"
import { ConfigFault, type JsonObject } from "./families/Config.ts"
import { familyOf, supportedArchitectures } from "./families/Families.ts"
import type { Family } from "./families/Family.ts"
import { ModelError } from "./ModelError.ts"
import type { ModelSpec } from "./ModelSpec.ts"
import { quantizedWeightsFault } from "./families/QuantizedWeights.ts"

export interface DecodedConfig {
  readonly spec: ModelSpec
  readonly family: Family
}

/**
 * A Hugging Face config.json as a table of layers, by the family that its architecture belongs to; `file` is the name used
 * in errors.
 *
 * Throws ModelError: `InvalidField` where a field is missing, has the wrong type or contradicts another, `Unsupported` where
 * the model asks for something that no runner here has, or has a field that might ask for it.
 */
export const readModelConfig = (file: string, json: unknown): DecodedConfig => {
  const fail = (reason: ModelError["reason"], field: string | null, detail: string): never => {
    throw new ModelError({ reason, file, field, detail })
  }
  if (typeof json !== "object" || json === null || Array.isArray(json)) {
    return fail("InvalidField", null, "a configuration is a JSON object")
  }
  const config = json as JsonObject
  const architectures: unknown = config["architectures"]
  if (!Array.isArray(architectures)) {
    return fail("InvalidField", "architectures", "missing, or not a list; it names what the model is")
  }
  const architecture = architectures.map(String).find((name) => familyOf(name) !== undefined)
  if (architecture === undefined) {
    const named = architectures.join(", ") || "nothing"
    return fail("Unsupported", "architectures", `names ${named}; supported: ${supportedArchitectures.join(", ")}`)
  }
  for (const at of ["", "text_config."]) {
    const holder = at === "" ? config : config["text_config"]
    const quantization = (holder as JsonObject | null | undefined)?.["quantization_config"] ?? null
    const fault = quantization === null ? null : quantizedWeightsFault(quantization as JsonObject)
    if (fault !== null) return fail("Unsupported", `${at}quantization_config.${fault.field}`, fault.detail)
  }
  const family = familyOf(architecture)!
  try {
    return { spec: family.spec(config, architecture), family }
  } catch (fault) {
    if (!(fault instanceof ConfigFault)) throw fault
    return fail(fault.reason, fault.field, fault.message)
  }
}

/** The same as an effect, which fails with ModelError. */
export const decodeModelConfig = (file: string, json: unknown): Effect.Effect<DecodedConfig, ModelError> =>
  Effect.suspend(() => {
    try {
      return Effect.succeed(readModelConfig(file, json))
    } catch (error) {
      return error instanceof ModelError ? Effect.fail(error) : Effect.die(error)
    }
  })
