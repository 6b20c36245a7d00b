import { Effect, FileSystem, Option, Schema } from "effect"
import { type DropSchedule, denseSchedule } from "./DropSchedule.ts"
import { decodeJson, readJson } from "./JsonFile.ts"
import { decodeModelConfig, tokenIds } from "./ModelConfig.ts"
import { ModelError } from "./ModelError.ts"
import type { ModelSpec } from "./ModelSpec.ts"
import { schedulePresets } from "./SchedulePresets.ts"
import { checkSchedule, decodeScheduleFile, type ScheduleFile } from "./ScheduleFile.ts"

/** A model in the Hugging Face layout, as far as it is JSON: everything but weights and tokenizer, whose files are named. */
export interface ModelDirectory {
  readonly directory: string
  readonly spec: ModelSpec
  readonly schedule: DropSchedule
  /** Where the schedule came from, for the log: a file, `preset NAME`, `off`, or `none` when nothing is beside the model. */
  readonly scheduleSource: string
  /** Fingerprint that the schedule was measured with, or null. */
  readonly scheduleFingerprint: string | null
  /** Paths of the weights, sorted. */
  readonly weights: ReadonlyArray<string>
  /** spec.eosTokenIds. */
  readonly eosTokenIds: ReadonlyArray<number>
  readonly generation: GenerationDefaults
}

/** What generation_config.json recommends; undefined where it says nothing. */
export interface GenerationDefaults {
  readonly temperature: number | undefined
  readonly topP: number | undefined
  readonly topK: number | undefined
  readonly minP: number | undefined
  readonly repetitionPenalty: number | undefined
}

export interface LoadOptions {
  /** `off`, `preset:NAME` or a file; undefined: uniprefill.json beside the model, dense without one. */
  readonly dropSchedule?: string | undefined
}

/** Reads config.json, generation_config.json and the drop schedule, and finds the weights. Fails with {@link ModelError}. */
export const loadModelDirectory = Effect.fn("loadModelDirectory")(function* (directory: string, options?: LoadOptions) {
  yield* checkDirectory(directory)
  const configFile = `${directory}/config.json`
  const config = yield* readJson(configFile)
  if (Option.isNone(config)) return yield* missing(configFile, "every model directory has one")
  const decoded = yield* decodeModelConfig(configFile, config.value)
  const { eosTokenIds, generation } = yield* readGeneration(directory, decoded)
  const spec: ModelSpec = { ...decoded, eosTokenIds }
  const weights = yield* findWeights(directory)
  const { schedule, fingerprint, source } = yield* chooseSchedule(directory, spec, options?.dropSchedule)
  return {
    directory,
    spec,
    schedule,
    scheduleSource: source,
    scheduleFingerprint: fingerprint,
    weights,
    eosTokenIds,
    generation,
  } satisfies ModelDirectory
})

const missing = (file: string, detail: string) =>
  Effect.fail(new ModelError({ reason: "MissingFile", file, field: null, detail: `no such file; ${detail}` }))

const unreadable = (file: string) => (error: { readonly message: string }) =>
  new ModelError({ reason: "Unreadable", file, field: null, detail: error.message })

const checkDirectory = Effect.fnUntraced(function* (directory: string) {
  const fileSystem = yield* FileSystem.FileSystem
  if (yield* fileSystem.exists(directory).pipe(Effect.mapError(unreadable(directory)))) return
  const isHubId = /^[\w.-]+\/[\w.-]+$/.test(directory) && !directory.startsWith(".")
  const detail = isHubId
    ? `no such directory; models are read from disk: run \`hf download ${directory} --local-dir DIR\` and pass DIR`
    : "no such directory"
  return yield* Effect.fail(new ModelError({ reason: "MissingFile", file: directory, field: null, detail }))
})

const GenerationJson = Schema.Struct({
  eos_token_id: Schema.optionalKey(Schema.NullOr(Schema.Union([Schema.Int, Schema.Array(Schema.Int)]))),
  do_sample: Schema.optionalKey(Schema.NullOr(Schema.Boolean)),
  temperature: Schema.optionalKey(Schema.NullOr(Schema.Finite.check(Schema.isGreaterThanOrEqualTo(0)))),
  top_p: Schema.optionalKey(Schema.NullOr(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 })))),
  top_k: Schema.optionalKey(Schema.NullOr(Schema.Int.check(Schema.isGreaterThanOrEqualTo(0)))),
  min_p: Schema.optionalKey(Schema.NullOr(Schema.Finite.check(Schema.isBetween({ minimum: 0, maximum: 1 })))),
  repetition_penalty: Schema.optionalKey(Schema.NullOr(Schema.Finite.check(Schema.isGreaterThan(0)))),
})

/** End-of-answer ids and sampling defaults; `do_sample: false` is temperature 0. */
const readGeneration = Effect.fnUntraced(function* (directory: string, spec: ModelSpec) {
  const file = `${directory}/generation_config.json`
  const json = Option.getOrElse(yield* readJson(file), () => ({}))
  const fields = yield* decodeJson(GenerationJson, file, json)
  const own = tokenIds(fields.eos_token_id)
  const eosTokenIds = own.length > 0 ? own : spec.eosTokenIds
  const outside = eosTokenIds.find((id) => id < 0 || id >= spec.vocabSize)
  if (outside !== undefined) {
    return yield* Effect.fail(
      new ModelError({
        reason: "InvalidField",
        file: own.length > 0 ? file : `${directory}/config.json`,
        field: "eos_token_id",
        detail: `${outside} is not in the vocabulary of ${spec.vocabSize} tokens`,
      }),
    )
  }
  const generation: GenerationDefaults = {
    temperature: fields.do_sample === false ? 0 : (fields.temperature ?? undefined),
    topP: fields.top_p ?? undefined,
    topK: fields.top_k ?? undefined,
    minP: fields.min_p ?? undefined,
    repetitionPenalty: fields.repetition_penalty ?? undefined,
  }
  return { eosTokenIds, generation }
})

const IndexJson = Schema.Struct({ weight_map: Schema.Record(Schema.String, Schema.String) })

/** The files of the index when there is one, else every *.safetensors; each is checked to exist. */
const findWeights = Effect.fnUntraced(function* (directory: string) {
  const fileSystem = yield* FileSystem.FileSystem
  const names = yield* fileSystem.readDirectory(directory).pipe(Effect.mapError(unreadable(directory)))
  const present = names.filter((name) => name.endsWith(".safetensors")).toSorted()
  const indexFile = `${directory}/model.safetensors.index.json`
  const index = yield* readJson(indexFile)
  if (Option.isNone(index)) {
    if (present.length === 0) return yield* missing(`${directory}/model.safetensors`, "the model has no weights")
    return present.map((name) => `${directory}/${name}`)
  }
  const { weight_map } = yield* decodeJson(IndexJson, indexFile, index.value)
  const named = [...new Set(Object.values(weight_map))].toSorted()
  for (const name of named) {
    if (!present.includes(name)) {
      const tensors = Object.values(weight_map).filter((file) => file === name).length
      return yield* missing(`${directory}/${name}`, `${indexFile} has ${tensors} tensors in it`)
    }
  }
  return named.map((name) => `${directory}/${name}`)
})

const chooseSchedule = Effect.fnUntraced(function* (directory: string, spec: ModelSpec, choice: string | undefined) {
  const dense = { schedule: denseSchedule, fingerprint: null }
  if (choice === "off") return { ...dense, source: "off" }
  if (choice?.startsWith("preset:")) {
    const name = choice.slice("preset:".length)
    const schedule = schedulePresets.get(name)
    if (schedule === undefined) {
      const known = [...schedulePresets.keys()].join(", ")
      return yield* Effect.fail(
        new ModelError({
          reason: "InvalidChoice",
          file: "drop schedule",
          field: null,
          detail: `no preset "${name}"; presets: ${known}`,
        }),
      )
    }
    yield* checkSchedule(`preset ${name}`, schedule, spec)
    return { schedule, fingerprint: null, source: `preset ${name}` }
  }
  const file = choice ?? `${directory}/uniprefill.json`
  const json = yield* readJson(file)
  if (Option.isNone(json)) {
    if (choice !== undefined) return yield* missing(file, "a drop schedule is `off`, `preset:NAME` or a file")
    return { ...dense, source: "none" }
  }
  const read: ScheduleFile = yield* decodeScheduleFile(file, json.value, spec)
  return { ...read, source: file }
})
