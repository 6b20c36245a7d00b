import { Effect, FileSystem, Option, Path, type PlatformError, Schema } from "effect"
import { type DropSchedule, denseSchedule } from "./DropSchedule.ts"
import { tokenIds } from "./families/Config.ts"
import type { TensorNames } from "./families/Family.ts"
import { fnv1a64 } from "./Fnv.ts"
import { decodeJson, platformFault, readBytes, readJson } from "./JsonFile.ts"
import { decodeModelConfig } from "./ModelConfig.ts"
import { ModelError } from "./ModelError.ts"
import type { ModelSpec } from "./ModelSpec.ts"
import { tensorsOf } from "./Safetensors.ts"
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
  /** Paths of the weights, sorted: those that the index names, or all. */
  readonly weights: ReadonlyArray<string>
  /** model.safetensors.index.json, or null: the file of each tensor by its name alone. */
  readonly index: { readonly file: string; readonly weightMap: Readonly<Record<string, string>> } | null
  readonly tensors: TensorNames
  /** FNV-1a 64 over config.json's bytes, 16 hexadecimal digits: where a fingerprint of the weights begins. */
  readonly identity: string
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
  const config = yield* readBytes(configFile)
  if (Option.isNone(config)) return yield* missing(configFile, "every model directory has one")
  const decoded = yield* decodeModelConfig(configFile, Option.getOrNull(yield* readJson(configFile)))
  const { eosTokenIds, generation } = yield* readGeneration(directory, decoded.spec)
  const spec: ModelSpec = { ...decoded.spec, eosTokenIds }
  const { weights, index } = yield* findWeights(directory)
  const present = index === null ? yield* tensorsOf(weights) : Object.keys(index.weightMap)
  const { schedule, fingerprint, source } = yield* chooseSchedule(directory, spec, options?.dropSchedule)
  return {
    directory,
    spec,
    schedule,
    scheduleSource: source,
    scheduleFingerprint: fingerprint,
    weights,
    index,
    tensors: decoded.family.tensors(spec, new Set(present)),
    identity: fnv1a64(config.value),
    eosTokenIds,
    generation,
  } satisfies ModelDirectory
})

const missing = (file: string, detail: string) =>
  Effect.fail(new ModelError({ reason: "MissingFile", file, field: null, detail: `no such file; ${detail}` }))

const unreadable = (file: string) => (error: PlatformError.PlatformError) =>
  new ModelError({ reason: "Unreadable", file, field: null, detail: platformFault(error) })

const checkDirectory = Effect.fnUntraced(function* (directory: string) {
  const fileSystem = yield* FileSystem.FileSystem
  if (yield* fileSystem.exists(directory).pipe(Effect.mapError(unreadable(directory)))) {
    const { type } = yield* fileSystem.stat(directory).pipe(Effect.mapError(unreadable(directory)))
    if (type === "Directory") return
    return yield* Effect.fail(
      new ModelError({
        reason: "InvalidChoice",
        file: directory,
        field: null,
        detail: "a model is a directory with config.json, tokenizer.json and *.safetensors; this is a file",
      }),
    )
  }
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
  const root = (yield* Path.Path).resolve(directory)
  const names = yield* fileSystem.readDirectory(directory).pipe(Effect.mapError(unreadable(directory)))
  const present = names.filter((name) => name.endsWith(".safetensors")).toSorted()
  const indexFile = `${directory}/model.safetensors.index.json`
  const json = yield* readJson(indexFile)
  if (Option.isNone(json)) {
    if (present.length === 0) return yield* missing(`${directory}/model.safetensors`, "the model has no weights")
    return { weights: present.map((name) => `${root}/${name}`), index: null }
  }
  const { weight_map: weightMap } = yield* decodeJson(IndexJson, indexFile, json.value)
  const named = [...new Set(Object.values(weightMap))].toSorted()
  for (const name of named) {
    if (!present.includes(name)) {
      const tensors = Object.values(weightMap).filter((file) => file === name).length
      return yield* missing(`${directory}/${name}`, `${indexFile} has ${tensors} tensors in it`)
    }
  }
  const index = { file: `${root}/model.safetensors.index.json`, weightMap }
  return { weights: named.map((name) => `${root}/${name}`), index }
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
