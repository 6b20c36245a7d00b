import { Effect, Schema } from "effect"
import { type DropSchedule, denseSchedule } from "./DropSchedule.ts"
import { decodeJson } from "./JsonFile.ts"
import { ModelError } from "./ModelError.ts"
import { layerKind, type ModelSpec } from "./ModelSpec.ts"

/** uniprefill.json, the drop schedule that was measured for a model and lies beside it. */
export interface ScheduleFile {
  readonly schedule: DropSchedule
  /** Fingerprint of the weights it was measured with, or null. */
  readonly fingerprint: string | null
}

/** Drop layers of one schedule: more would exceed the page tables that a runner describes. */
export const maxDropLayers = 31
/** Masses of 128 heads × this many queries still fit their fixed point. */
export const maxLastQ = 512

const Share = Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 }))
const Natural = Schema.Int.check(Schema.isGreaterThanOrEqualTo(0))

const ScheduleJson = Schema.Struct({
  format: Schema.Literal("uniprefill-schedule"),
  version: Schema.Literal(1),
  model: Schema.optionalKey(Schema.String),
  dropLayers: Schema.Array(Schema.Struct({ layer: Natural, p: Share })),
  rule: Schema.optionalKey(Schema.Literals(["exclusive", "reference"])),
  block: Schema.optionalKey(Natural),
  sink: Schema.optionalKey(Natural),
  lastQ: Schema.optionalKey(Natural),
  minPromptTokens: Schema.optionalKey(Natural),
  windowBy: Schema.optionalKey(Schema.Literals(["kept", "original"])),
})

/**
 * Decodes the value of a schedule file and checks it against the model. Absent fields are those of the dense schedule; a
 * key that is none of the format's is refused, so that a misspelt one is not silently without effect.
 *
 * Fails with `InvalidField`.
 */
export const decodeScheduleFile = Effect.fnUntraced(function* (file: string, json: unknown, spec: ModelSpec) {
  const { format: _, version: __, model = null, ...fields } = yield* decodeJson(ScheduleJson, file, json, true)
  const schedule: DropSchedule = { ...denseSchedule, ...fields }
  yield* checkSchedule(file, schedule, spec)
  return { schedule, fingerprint: model } satisfies ScheduleFile
})

/** The text of a schedule file; decoding it gives the same schedule. */
export const encodeScheduleFile = ({ schedule, fingerprint }: ScheduleFile): string => {
  const json = {
    format: "uniprefill-schedule",
    version: 1,
    ...(fingerprint === null ? {} : { model: fingerprint }),
    dropLayers: schedule.dropLayers.map(({ layer, p }) => ({ layer, p })),
    rule: schedule.rule,
    block: schedule.block,
    sink: schedule.sink,
    lastQ: schedule.lastQ,
    minPromptTokens: schedule.minPromptTokens,
    windowBy: schedule.windowBy,
  } satisfies typeof ScheduleJson.Encoded
  return `${JSON.stringify(json, null, 2)}\n`
}

/** Fails with `InvalidField` where a schedule cannot be carried out on a model; `file` is the name used in the error. */
export const checkSchedule = (
  file: string,
  schedule: DropSchedule,
  spec: ModelSpec,
): Effect.Effect<void, ModelError> => {
  const fault = scheduleFault(schedule, spec)
  return fault === null
    ? Effect.void
    : Effect.fail(new ModelError({ reason: "InvalidField", file, field: fault.field, detail: fault.detail }))
}

const scheduleFault = (schedule: DropSchedule, spec: ModelSpec): { field: string; detail: string } | null => {
  const layers = spec.layers.length
  const { dropLayers, block, lastQ } = schedule
  if (dropLayers.length > maxDropLayers) {
    return { field: "dropLayers", detail: `${dropLayers.length} layers, at most ${maxDropLayers}` }
  }
  for (const [i, { layer, p }] of dropLayers.entries()) {
    const field = `dropLayers.${i}.layer`
    const before = dropLayers[i - 1]?.layer
    if (!Number.isInteger(layer) || layer < 0 || layer >= layers) {
      return { field, detail: `${layer}; the model has layers 0 to ${layers - 1}` }
    }
    if (before !== undefined && layer <= before) {
      return { field, detail: `${layer} after ${before}; drop layers ascend` }
    }
    if (layer === layers - 1) {
      return {
        field,
        detail: `${layer} is the last layer, which computes no more rows than are asked for anyway; drop earlier or not at all`,
      }
    }
    const kind = layerKind(spec.layers[layer]!)
    if (kind !== "full") {
      return { field, detail: `layer ${layer} is of kind ${kind}; only a full-attention layer can select` }
    }
    if (!(p >= 0 && p <= 1)) return { field: `dropLayers.${i}.p`, detail: `${p} is not in [0, 1]` }
  }
  if (block <= 0 || block % 64 !== 0) return { field: "block", detail: `${block} is not a positive multiple of 64` }
  if (lastQ < 1 || lastQ > maxLastQ) return { field: "lastQ", detail: `${lastQ} is not in 1 to ${maxLastQ}` }
  return null
}
