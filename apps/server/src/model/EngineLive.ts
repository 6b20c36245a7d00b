import { basename } from "node:path"
import * as NodeServices from "@effect/platform-node/NodeServices"
import { Engine, type EngineError } from "@uniprefill/engine/Engine"
import * as EngineLayer from "@uniprefill/engine/EngineLayer"
import { Executor, type ExecutorError, type ExecutorInfo } from "@uniprefill/executor/contract/Executor"
import { sparseRows } from "@uniprefill/executor-native/NativeExecutor"
import { openRecording, type RecordingFileError } from "@uniprefill/recording/RecordingFile"
import { loadModelDirectory, type ModelDirectory } from "@uniprefill/model/ModelDirectory"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { ModelError } from "@uniprefill/model/ModelError"
import { attentionOf, kvWidth } from "@uniprefill/model/ModelSpec"
import { modelSplitFault, rankSpec } from "@uniprefill/placement/Shards"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import type { TokenizerError } from "@uniprefill/tokenizer/TokenizerError"
import { Clock, Effect, Layer } from "effect"
import { makeKvEventPublisher } from "../gateway/KvEventPublisher.ts"
import { defaultTopic, type KvEventsConfig } from "../gateway/KvEventsConfig.ts"
import { isCuda, modelShape, predictionFor } from "./CostModels.ts"
import { embeddedModel, type ModelSettings, stepBudgets } from "../options/ModelOptions.ts"
import { policyOf } from "./PolicyLive.ts"
import { ServedModel } from "./ServedModel.ts"
import { version } from "../Version.ts"
import { UsageError } from "../cli/UsageError.ts"

export type StartError = ModelError | TokenizerError | ExecutorError | EngineError | RecordingFileError | UsageError

/** Makes what runs the steps of a model. */
export type ExecutorOf = (
  model: ModelDirectory,
  settings: ModelSettings,
) => Layer.Layer<Executor, ExecutorError | UsageError>

/** What no option says. */
export interface ServingOptions {
  /** A template file in place of the model's own. */
  readonly chatTemplate?: string | undefined
  /** Where what the prefix cache holds is published. */
  readonly kvEvents?: KvEventsConfig | undefined
  /** In place of the model's own schedule. */
  readonly schedule?: DropSchedule | undefined
  /** The least p that a request may ask for. */
  readonly pFloor?: number | undefined
  /** p of requests whose first token would be late otherwise. */
  readonly sloP?: number | undefined
  /** When the first token of a request that names no target is due, ms. */
  readonly ttftSloMs?: number | undefined
  /** Time between two events of a stream, ms. */
  readonly streamIntervalMs?: number | undefined
}

/**
 * A model directory as a running engine: weights, drop schedule and tokenizer are read, the executor started.
 *
 * `names` are what clients call the model; none means the name of its directory.
 */
export const layer = (
  settings: ModelSettings,
  names: ReadonlyArray<string>,
  executorOf: ExecutorOf,
  serving: ServingOptions = {},
): Layer.Layer<Engine | Tokenizer | ServedModel, StartError> =>
  Layer.unwrap(
    Effect.gen(function* () {
      const directory = settings.model ?? embeddedModel()
      const read = yield* loadModelDirectory(directory, { dropSchedule: settings["drop-schedule"] })
      const model =
        serving.schedule === undefined
          ? read
          : { ...read, schedule: serving.schedule, scheduleSource: "given", scheduleFingerprint: null }
      yield* Effect.logInfo("model read").pipe(
        Effect.annotateLogs({
          directory,
          quantization: settings.quantization,
          prefill_sparsity: settings["prefill-sparsity"] ?? "off",
          drop_schedule: model.scheduleSource,
          drop_layers: model.schedule.dropLayers.map((drop) => `${drop.layer}:${drop.p}`).join(",") || "none",
        }),
      )
      yield* checkPrefillSparsity(settings)
      yield* checkMaxModelLen(settings, model)
      yield* checkTensorParallel(settings, model)
      yield* checkSloP(serving.sloP, model)
      const servedNames = names.length > 0 ? names : [basename(directory.replace(/\/+$/, ""))]
      return servedLayer(model, servedNames, serving).pipe(
        Layer.provideMerge(engineLayer(model, settings, servedNames[0]!, serving)),
        Layer.provideMerge(Tokenizer.layer({ directory, chatTemplate: serving.chatTemplate, warm: true })),
        Layer.provide(executorOf(model, settings)),
      )
    }).pipe(Effect.provide(NodeServices.layer)),
  )

/** Before any executor is tried: the simulated one computes no attention to leave out. */
const checkPrefillSparsity = (settings: ModelSettings) => {
  const { "prefill-sparsity": share, "page-size": pageSize, executor } = settings
  if (share === undefined) return Effect.void
  if (executor === "sim")
    return Effect.fail(new UsageError({ message: "--prefill-sparsity: --executor sim computes no attention" }))
  if (pageSize % sparseRows === 0) return Effect.void
  const message = `--prefill-sparsity: pages are of a multiple of ${sparseRows} rows, --page-size is ${pageSize}`
  return Effect.fail(new UsageError({ message }))
}

/** Before the executor is made, which knows the limit but not the option. */
const checkMaxModelLen = ({ "max-model-len": asked }: ModelSettings, { spec }: ModelDirectory) => {
  if (asked === undefined || asked <= spec.maxPositions) return Effect.void
  const message = `--max-model-len: the model takes at most ${spec.maxPositions} tokens, got ${asked}`
  return Effect.fail(new UsageError({ message }))
}

/** Before any executor is tried: none can do it. */
const checkTensorParallel = ({ "tensor-parallel-size": ranks }: ModelSettings, { spec }: ModelDirectory) => {
  const fault = modelSplitFault(spec, ranks)
  return fault === null ? Effect.void : Effect.fail(new UsageError({ message: `--tensor-parallel-size: ${fault}` }))
}

/** A p that lowers nothing is a mistake. */
const checkSloP = (sloP: number | undefined, { schedule }: ModelDirectory) => {
  const own = schedule.dropLayers.map((drop) => drop.p)
  if (sloP === undefined || own.some((p) => p > sloP)) return Effect.void
  const detail =
    own.length === 0 ? "this model is served dense" : `the drop schedule's p is ${Math.max(...own)} at most`
  return Effect.fail(new UsageError({ message: `--slo-p: ${detail}, so ${sloP} lowers nothing` }))
}

const engineLayer = (model: ModelDirectory, settings: ModelSettings, modelName: string, serving: ServingOptions) =>
  Layer.unwrap(
    Effect.gen(function* () {
      const { info } = yield* Executor
      const { spec, schedule } = model
      if (info.tensorParallel > 1) yield* logRanks(info)
      const predict = yield* predictionFor(settings, info.device)
      const policy = yield* policyOf(settings)
      const { record } = settings
      const recording = record === undefined ? undefined : yield* openRecording(record)
      const { layout, maxRowsPerStep } = info
      const shape = modelShape(settings, spec, kvElementBytes(model, info))
      const { kvEvents } = serving
      const publisher =
        kvEvents === undefined
          ? undefined
          : yield* makeKvEventPublisher(kvEvents, kvEvents.topic ?? defaultTopic(modelName), info.layout.pageSize)
      if (publisher !== undefined) {
        const { endpoint, replayEndpoint } = publisher
        yield* Effect.logInfo("KV events are published").pipe(
          Effect.annotateLogs({ endpoint, replay_endpoint: replayEndpoint ?? "none" }),
        )
      }
      return EngineLayer.layer({
        spec,
        schedule,
        costModel: predict({ shape, layout, lastQ: schedule.lastQ, maxRowsPerStep }),
        modelName,
        policy,
        prefixCaching: settings["prefix-caching"] === "on",
        record: recording === undefined ? undefined : { write: recording.write, code: version },
        prefixEvents: publisher?.publish,
        maxModelLen: settings["max-model-len"],
        sloP: serving.sloP,
        streamIntervalMs: serving.streamIntervalMs,
        ...stepBudgets(isCuda(info.device), settings["step-budget-ms"]),
        // Planning takes longer than a step may wait for on a fast device.
        maxStepsInFlight: isCuda(info.device) ? 2 : undefined,
      })
    }),
  )

const logRanks = ({ device, tensorParallel, ranks = [], slabs, layout }: ExecutorInfo) =>
  Effect.logInfo("the model is divided among ranks").pipe(
    Effect.annotateLogs({
      ranks: tensorParallel,
      devices: ranks.length === 0 ? device : ranks.map((rank) => rank.device).join(","),
      weight_bytes: ranks.map((rank) => rank.weightBytes ?? "unknown").join(",") || "unknown",
      kv_bytes_per_rank: slabs * layout.slabBytes,
    }),
  )

/** The executor's layout says it: a slab holds K and V of `pageSize` rows of `layersPerSlab` layers, of one rank's heads. */
export const kvElementBytes = ({ spec }: ModelDirectory, { layout, tensorParallel }: ExecutorInfo): number => {
  const { layers } = rankSpec(spec, tensorParallel)
  const width = Math.max(...layers.map((one) => kvWidth(attentionOf(one) ?? { kvHeads: 0, headDim: 0 })))
  return layout.slabBytes / (layout.pageSize * layout.layersPerSlab * 2 * width)
}

const servedLayer = (model: ModelDirectory, names: ReadonlyArray<string>, serving: ServingOptions) =>
  Layer.effect(
    ServedModel,
    Effect.gen(function* () {
      const engine = yield* Engine
      const { dropLayers } = model.schedule
      return {
        names,
        root: model.directory,
        createdSeconds: Math.floor((yield* Clock.currentTimeMillis) / 1000),
        maxModelLen: engine.model.maxModelLen,
        vocabSize: model.spec.vocabSize,
        eosTokenIds: model.eosTokenIds,
        generation: model.generation,
        scheduleP: dropLayers.map((drop) => drop.p),
        pFloor: serving.pFloor ?? null,
        sloP: serving.sloP ?? null,
        ttftSloMs: serving.ttftSloMs,
      }
    }),
  )
