import { Schema } from "effect"
import type { RopeSpec } from "../ModelSpec.ts"
import { Count, decodeFields, invalid, type JsonObject, nested, optional, Positive, unsupported } from "./Config.ts"

const RopeFields = {
  /** `rope_type` since transformers 4.43, `type` before. */
  rope_type: optional(Schema.String),
  type: optional(Schema.String),
  rope_theta: optional(Positive),
  factor: optional(Positive),
  low_freq_factor: optional(Positive),
  high_freq_factor: optional(Positive),
  original_max_position_embeddings: optional(Count),
  partial_rotary_factor: optional(Positive),
  // Which of a picture's axes a dimension turns with; in text all axes count alike.
  mrope_section: optional(Schema.Array(Count)),
  mrope_interleaved: optional(Schema.Boolean),
}

/** The fields that hold rotary settings: theta and a scaling apart, or both in one object since transformers 5. */
export const RopeHomes = {
  rope_theta: optional(Positive),
  rope_scaling: optional(Schema.Record(Schema.String, Schema.Unknown)),
  rope_parameters: optional(Schema.Record(Schema.String, Schema.Unknown)),
  partial_rotary_factor: optional(Positive),
}

export interface RopeDefaults {
  readonly headDim: number
  readonly theta: number
  /** Share of a head's dimensions that are rotated. */
  readonly partial: number
}

interface RopeConfig {
  readonly rope_theta?: number
  readonly rope_scaling?: JsonObject
  readonly rope_parameters?: JsonObject
  readonly partial_rotary_factor?: number
}

/** Fails with ConfigFault. */
export const ropeOf = (config: RopeConfig, defaults: RopeDefaults, at = ""): RopeSpec => {
  const name = config.rope_parameters === undefined ? "rope_scaling" : "rope_parameters"
  const fields = config[name] ?? {}
  const theta = config.rope_theta ?? defaults.theta
  const partial = config.partial_rotary_factor ?? defaults.partial
  return ropeFrom(fields, { ...defaults, theta, partial }, `${at}${name}`)
}

/** Rotary settings from the object that holds them, `name` inside its file. Fails with ConfigFault. */
export const ropeFrom = (object: JsonObject, defaults: RopeDefaults, name: string): RopeSpec => {
  const fields = decodeFields(RopeFields, object, "rotary embedding", `${name}.`)
  const type = fields.rope_type ?? fields.type ?? "default"
  const theta = fields.rope_theta ?? defaults.theta
  const partial = fields.partial_rotary_factor ?? defaults.partial
  const dim = Math.floor(defaults.headDim * partial)
  if (dim < 2 || dim % 2 !== 0 || dim > defaults.headDim) {
    const detail = `${partial} of ${defaults.headDim} dimensions is ${dim}; an even number of them is rotated`
    invalid(`${name}.partial_rotary_factor`, detail)
  }
  const need = (key: "factor" | "low_freq_factor" | "high_freq_factor" | "original_max_position_embeddings"): number =>
    fields[key] ?? invalid(`${name}.${key}`, `missing; ${type} needs it`)
  switch (type) {
    case "default":
      return { theta, dim, scaling: { type: "none" } }
    case "linear":
      return { theta, dim, scaling: { type: "linear", factor: need("factor") } }
    case "llama3": {
      const lowFreqFactor = need("low_freq_factor")
      const highFreqFactor = need("high_freq_factor")
      if (highFreqFactor <= lowFreqFactor) {
        invalid(`${name}.high_freq_factor`, `${highFreqFactor} is not above low_freq_factor ${lowFreqFactor}`)
      }
      const factor = need("factor")
      const originalMaxPositions = need("original_max_position_embeddings")
      return { theta, dim, scaling: { type: "llama3", factor, lowFreqFactor, highFreqFactor, originalMaxPositions } }
    }
    default:
      return unsupported(`${name}.rope_type`, `"${type}"; supported: "default", "linear", "llama3"`)
  }
}

/** A layer type's own settings inside `rope_parameters`; empty where there are none. Fails with ConfigFault. */
export const ropeOfType = (parameters: JsonObject | undefined, type: string, at: string): JsonObject =>
  (parameters?.[type] ?? null) === null ? {} : nested(parameters!, type, `${at}rope_parameters.`)
