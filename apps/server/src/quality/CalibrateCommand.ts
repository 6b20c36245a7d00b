import { existsSync, rmSync } from "node:fs"
import { basename } from "node:path"
import { Engine } from "@uniprefill/engine/Engine"
import { fingerprintOf } from "@uniprefill/executor-native/NativeExecutor"
import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { layerKind } from "@uniprefill/model/ModelSpec"
import { encodeScheduleFile } from "@uniprefill/model/ScheduleFile"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Clock, Context, Effect, Layer } from "effect"
import { UsageError } from "../cli/UsageError.ts"
import { calibrationOf, modelShape } from "../model/CostModels.ts"
import * as EngineLive from "../model/EngineLive.ts"
import type { calibrateOptions } from "../options/CalibrateOptions.ts"
import { embeddedModel } from "../options/ModelOptions.ts"
import type { OptionValues } from "../options/Options.ts"
import { writeReport } from "./AccuracyCommand.ts"
import type { Case } from "./AccuracyRun.ts"
import { promptMaker, readHaystack } from "./Asking.ts"
import { calibrationReport, calibrationText } from "./CalibrationReport.ts"
import { calibrate } from "./CalibrationRun.ts"
import { CalibrationState } from "./CalibrationState.ts"
import { keptShares } from "./KeptShares.ts"
import { predictedMicros } from "./PredictedTime.ts"

export type CalibrateSettings = OptionValues<typeof calibrateOptions>

/** All that measured values depend on: a run that was cut short goes on only where this is the same. */
export const measurementOf = (
  fingerprint: string,
  settings: Pick<
    CalibrateSettings,
    "tokens" | "seed" | "tasks" | "prompts" | "haystack" | "quantization" | "prefill-sparsity"
  >,
): string => {
  const { tokens, seed, tasks, prompts, haystack = "", quantization, "prefill-sparsity": sparsity } = settings
  return JSON.stringify([
    fingerprint,
    tokens,
    seed,
    tasks,
    prompts,
    haystack,
    quantization,
    ...(sparsity === undefined ? [] : [sparsity]),
  ])
}

/** Finds where a model may drop tokens, and writes the schedule. */
export const calibrateCommand = (settings: CalibrateSettings, json: boolean, executorOf: EngineLive.ExecutorOf) =>
  Effect.gen(function* () {
    const { tokens, seed, out } = settings
    if (existsSync(out)) {
      return yield* new UsageError({ message: `${out} is there already: remove it, or give another name with --out` })
    }
    const directory = settings.model ?? embeddedModel()
    const model = yield* loadModelDirectory(directory, { dropSchedule: "off" })
    const { spec } = model
    const fingerprint = yield* fingerprintOf(model)
    const candidates = spec.layers.flatMap((layer, i) =>
      layerKind(layer) === "full" && i < spec.layers.length - 1 ? [i] : [],
    )
    const { prompts } = settings
    const cases = yield* calibrationCases(settings, directory, numbersFrom(0, prompts))
    const freshCases = yield* calibrationCases(settings, directory, numbersFrom(prompts, settings["check-prompts"]))
    const grid = [...new Set(settings.p)].toSorted((a, b) => b - a)
    const budget = { answerKl: settings["max-kl"], loss: settings["max-loss"] }
    const scheduleOf = (layers: ReadonlyArray<number>): DropSchedule => ({
      ...denseSchedule,
      dropLayers: layers.map((layer) => ({ layer, p: 1 })),
    })
    const shared = { ...settings, "drop-schedule": "off", "prefix-caching": "on" } as const
    const devices: Array<string> = []
    const engineOf = (layers: ReadonlyArray<number>) =>
      Effect.gen(function* () {
        const schedule = scheduleOf(layers)
        const services = yield* Layer.build(EngineLive.layer(shared, [], executorOf, { schedule }))
        const engine = Context.get(services, Engine)
        devices[0] = engine.model.executor.device
        return engine
      })
    const about = measurementOf(fingerprint, settings)
    const progressFile = `${out}.progress`
    const state = yield* CalibrationState.open(progressFile, about)
    const assumed = yield* calibrationOf(shared, settings.executor)
    const costOf = (layers: ReadonlyArray<number>, kept: ReadonlyArray<number>) =>
      predictedMicros(modelShape(settings, spec), assumed, scheduleOf(layers), tokens, kept)
    const isTerminal = process.stderr.isTTY
    const progress = (text: string) =>
      Effect.sync(() => void (isTerminal && process.stderr.write(`\r\u001b[2K${text}`)))
    const found = yield* calibrate({
      cases,
      freshCases,
      candidates,
      grid,
      budget,
      maxTokens: settings["max-tokens"],
      maxTrials: settings["max-trials"],
      state,
      deadline: (yield* Clock.currentTimeMillis) + settings.minutes * 60_000,
      engineOf,
      costOf,
      progress,
    })
    const { chosen } = found
    const rightDense = (of: ReadonlyArray<Case>) => of.filter(({ id }) => state.dense.get(id)?.isRight === true).length
    const report = calibrationReport(
      {
        model: basename(directory),
        fingerprint,
        device: devices[0] ?? settings.executor,
        tokens,
        prompts: cases.length,
        seed,
        budget,
        denseRight: rightDense(cases),
        freshPrompts: freshCases.length,
        freshDenseRight: rightDense(freshCases),
        denseMs: costOf([], []) / 1000,
      },
      found,
    )
    const schedule: DropSchedule = { ...denseSchedule, dropLayers: chosen?.layers ?? [] }
    yield* writeReport(out, encodeScheduleFile({ schedule, fingerprint }))
    if (settings.keep !== undefined && chosen !== null) {
      const lengths = settings["keep-tokens"].length === 0 ? [tokens] : settings["keep-tokens"]
      const kept = yield* Effect.forEach(lengths, (length) =>
        calibrationCases({ ...settings, tokens: length }, directory, numbersFrom(0, Math.min(2, prompts))),
      )
      const engine = yield* engineOf(chosen.layers.map(({ layer }) => layer))
      const points = yield* keptShares(kept.flat(), grid, progress).pipe(Effect.provideService(Engine, engine))
      const note = `${report.model}, ${kept[0]!.length} prompts of hidden sentences a length, seed ${seed}; drop layers of ${out}`
      const file = { format: "uniprefill-keep", version: 1, source: "measured", note, accuracy: [], points }
      yield* writeReport(settings.keep, `${JSON.stringify(file, null, 2)}\n`)
    }
    if (isTerminal) process.stderr.write("\r\u001b[2K")
    // What took so long is not thrown away: with more time, the same command goes on.
    if (!found.isCutShort) rmSync(progressFile, { force: true })
    process.stdout.write(
      json ? `${JSON.stringify(report, null, 2)}\n` : `${calibrationText(report)}${out} is written.\n`,
    )
  }).pipe(Effect.scoped)

const numbersFrom = (first: number, count: number) => Array.from({ length: count }, (_, i) => first + i)

/** Prompts of every task in turn, so that what is given up early was asked of all of them. */
const calibrationCases = (
  { tasks, tokens, seed, haystack }: CalibrateSettings,
  directory: string,
  numbers: ReadonlyArray<number>,
) =>
  Effect.gen(function* () {
    const make = yield* promptMaker(yield* readHaystack(haystack))
    return yield* Effect.forEach(
      numbers.flatMap((number) => tasks.map((kind) => ({ kind, number }))),
      Effect.fnUntraced(function* ({ kind, number }) {
        const { task, prompt } = yield* make(kind, tokens, seed, number)
        const isRight = (answer: string) => answer === task.answer
        return { id: `${kind}-${number}`, task: kind, prompt: prompt.tokens, depth: null, isRight } satisfies Case
      }),
    )
  }).pipe(Effect.provide(Tokenizer.layer({ directory })))
