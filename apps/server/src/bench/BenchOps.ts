import { writeFileSync } from "node:fs"
import { basename, resolve } from "node:path"
import type { Calibration } from "@uniprefill/cost-model/Calibration"
import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { operationWork } from "@uniprefill/cost-model/OperationWork"
import { Executor } from "@uniprefill/executor/contract/Executor"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Effect, Layer } from "effect"
import { showing } from "../cli/Progress.ts"
import { UsageError } from "../cli/UsageError.ts"
import { kvElementBytes } from "../model/EngineLive.ts"
import { calibrationOf, linkOf, modelShape } from "../model/CostModels.ts"
import { executorLive } from "../model/ExecutorLive.ts"
import { embeddedModel } from "../options/ModelOptions.ts"
import type { OptionValues } from "../options/Options.ts"
import { version } from "../Version.ts"
import type { benchOpsOptions } from "./EngineBenchOptions.ts"
import { calibrationFrom, type FitCosts, type OpsMeasurements, type TimedStep } from "./OpsCalibration.ts"
import { makeMeasure, Patience } from "./OpsMeasure.ts"
import { StepProbe } from "./StepProbe.ts"

export type BenchOpsSettings = OptionValues<typeof benchOpsOptions>

/** A measurement beside what the calibration predicts for it. */
interface OperationRow {
  readonly operation: string
  readonly case: string
  readonly ms: number
  readonly predicted_ms: number | null
}

/**
 * Measures the operations that the cost model knows, each as a step of the executor at hand or as the difference of two, and makes the calibration
 * that predicts these steps: for `--cost-model` and for the simulator.
 */
export const benchOps = (settings: BenchOpsSettings, json: boolean) =>
  Effect.gen(function* () {
    if (settings["prefill-sparsity"] !== undefined) {
      const message = "--prefill-sparsity: a calibration is of steps that read all keys; bench prefill times the others"
      return yield* new UsageError({ message })
    }
    const directory = settings.model ?? embeddedModel()
    const model = yield* loadModelDirectory(directory, { dropSchedule: settings["drop-schedule"] })
    const services = yield* showing("loading the model …", Layer.build(executorLive(model, settings)))
    const executor = yield* Effect.provideContext(Executor, services)
    const { info } = executor
    const { spec, schedule } = model
    const shape = modelShape(settings, spec, kvElementBytes(model, info))
    const costs: FitCosts = {
      work: operationWork(shape, info.layout, info.tensorParallel),
      link: linkOf(settings, yield* calibrationOf(settings, info.device), info.device),
      lastQ: schedule.lastQ,
      maxRowsPerStep: info.maxRowsPerStep,
    }
    const probe = new StepProbe(executor, schedule, spec.vocabSize)
    const longest = longestOf(settings, probe)
    if (longest < 1024) {
      const message = `--input-len: 1024 tokens are the least to measure with, and memory or model hold ${longest}`
      return yield* new UsageError({ message })
    }
    const beganMs = performance.now()
    const measure = makeMeasure(probe, {
      iterations: settings["num-iters"],
      longest,
      drops: schedule.dropLayers.length > 0,
      patience: yield* Patience,
    })
    const name = basename(resolve(directory))
    const copy = yield* showing("copies …", measure.copy)
    const linear = yield* showing("matrix products …", measure.linear)
    const items = yield* showing("items …", measure.items)
    const attention = yield* showing(`attention up to ${longest} tokens …`, measure.attention)
    const { decode, hostMicros, samplingMicros } = yield* showing("decode …", measure.decode)
    const mixed = yield* showing("decode beside prompts …", measure.mixed)
    const selection = yield* showing("selections …", measure.selection)
    const dropped = yield* showing("prompts that drop …", measure.dropped)
    const measurements: OpsMeasurements = {
      device: info.device,
      note:
        `uniprefill ${version} bench ops, prompts up to ${longest} tokens, medians of ${settings["num-iters"]}; what the model does between ` +
        "matrix products is in their rate",
      fittedTo: {
        model: name,
        tensorParallel: info.tensorParallel,
        ...(settings.quantization === "none" ? {} : { quantization: settings.quantization }),
      },
      copy,
      linear,
      attention,
      items,
      decode,
      mixed,
      selection,
      dropped,
    }
    const calibration = calibrationFrom(measurements, costs)
    const rows = rowsOf(measurements, new DeviceCostModel({ ...costs, calibration }))
    rows.push({
      operation: "host, two steps in flight",
      case: "a decode step",
      ms: hostMicros / 1000,
      predicted_ms: null,
    })
    if (samplingMicros !== null) {
      const most = Math.max(...decode.map(({ load }) => load.decodeRows))
      rows.push({ operation: "top-p sampling", case: `${most} rows`, ms: samplingMicros / 1000, predicted_ms: null })
    }
    const residuals = residualsOf(rows)
    const errors = rows.flatMap(errorOf).map(Math.abs)
    const error = { median: round(median(errors)), largest: round(Math.max(...errors)) }
    const seconds = {
      device_seconds: round(probe.deviceMicros / 1e6),
      seconds: round((performance.now() - beganMs) / 1000),
    }
    const file = settings.out
    if (file !== undefined) yield* writeCalibration(file, calibration)
    const results = rows.map((row) => ({
      ...row,
      ms: round(row.ms),
      predicted_ms: row.predicted_ms && round(row.predicted_ms),
    }))
    if (json) {
      const figures = { results, prediction_error: error, prediction_errors: residuals, ...seconds }
      return print(JSON.stringify({ device: info.device, model: name, ...figures, calibration }, null, 2))
    }
    print(`${directory} on ${info.device}; device time, medians of ${settings["num-iters"]}`)
    for (const { operation, case: what, ms, predicted_ms: predicted } of results) {
      const expected = predicted === null ? "" : `, predicted ${predicted} (${signed(predicted / ms - 1)})`
      print(`${operation.padEnd(26)} ${what.padEnd(48)} ${String(ms).padStart(9)} ms${expected}`)
    }
    print("predicted against measured          steps      median     largest")
    for (const { operation, steps, median: middle, largest } of residuals) {
      print(
        `${operation.padEnd(32)} ${String(steps).padStart(8)} ${signed(middle).padStart(11)} ${signed(largest).padStart(11)}`,
      )
    }
    print(`prediction of these steps: off by ${percent(error.median)} (median), ${percent(error.largest)} at most`)
    print(`${seconds.device_seconds} s of device time in ${seconds.seconds} s`)
    if (file !== undefined) print(`calibration: ${file}`)
  }).pipe(Effect.scoped)

const writeCalibration = (file: string, calibration: Calibration) =>
  Effect.try({
    try: () => writeFileSync(file, `${JSON.stringify(calibration, null, 2)}\n`),
    catch: (error) => new UsageError({ message: `--out ${file}: ${(error as Error).message}` }),
  })

/** The longest prompt that is asked for, that the model takes and that memory holds: a multiple of 64. */
const longestOf = (settings: BenchOpsSettings, probe: StepProbe): number => {
  let longest = Math.min(settings["input-len"], probe.executor.info.maxTokens - 64)
  const fits = (rows: number) =>
    probe.slabsOf(rows, "dense") <= probe.freeSlabs && probe.slabsOf(rows, "first segment") <= probe.freeSlabs
  while (longest > 0 && !fits(longest)) longest = Math.floor(longest * 0.8)
  return 64 * Math.floor(longest / 64)
}

const rowsOf = (measured: OpsMeasurements, costModel: DeviceCostModel): Array<OperationRow> => {
  const rows: Array<OperationRow> = []
  const add = (operation: string, what: string, { load, micros }: TimedStep) =>
    rows.push({ operation, case: what, ms: micros / 1000, predicted_ms: costModel.stepMicros(load) / 1000 })
  const { copy, linear, items, attention, decode, mixed, selection, dropped } = measured
  if (copy !== null) {
    const what = `${(copy.bytes / 2 ** 20).toFixed(0)} MiB read and written`
    rows.push({ operation: "copy", case: what, ms: copy.micros / 1000, predicted_ms: null })
  }
  for (const step of linear) add("prompt", `${step.load.rows[0]} rows`, step)
  if (items !== null)
    add("prompts in one step", `${items.load.items} of ${items.load.rows[0]! / items.load.items} rows`, items)
  for (const step of attention) {
    const { pairs, rows: own } = step.load
    const first = Math.round(pairs[0]! / own[0]! - (own[0]! + 1) / 2)
    add("chunk", `${own[0]} rows behind ${first}`, step)
  }
  for (const step of decode) {
    const { decodeRows: count, decodeKeys } = step.load
    const keys = Math.max(...decodeKeys) || Math.max(...step.load.decodeWindowKeys)
    add("decode", `${count} rows of ${Math.round(keys / count)} keys`, step)
  }
  for (const step of mixed)
    add("decode beside a prompt", `${step.load.decodeRows} rows, ${step.load.rows[0]} of the prompt`, step)
  for (const { plain, chunk } of selection) {
    const what = `among ${Math.max(...chunk.load.scoredRows)} rows`
    const ms = (chunk.micros - plain.micros) / 1000
    rows.push({ operation: "selection and read-back", case: what, ms, predicted_ms: null })
    add("chunk with a selection", what, chunk)
  }
  for (const step of dropped) {
    const { items: prompts, rows: own, decodeRows } = step.load
    const beside = decodeRows > 0 ? ` beside ${decodeRows} decodes` : ""
    const what = `${prompts > 1 ? `${prompts} of ` : ""}${own[0]! / prompts} rows, ${percent(own.at(-1)! / own[0]!)} kept last${beside}`
    add("prompt that drops", what, step)
  }
  return rows
}

/** How far predictions are off, as shares of what was measured, of the steps of one operation. */
interface Residuals {
  readonly operation: string
  readonly steps: number
  readonly median: number
  /** The one that is farthest from 0. */
  readonly largest: number
}

const residualsOf = (rows: ReadonlyArray<OperationRow>): ReadonlyArray<Residuals> => {
  const found: Array<Residuals> = []
  for (const operation of new Set(rows.map((row) => row.operation))) {
    const errors = rows.filter((row) => row.operation === operation).flatMap(errorOf)
    if (errors.length === 0) continue
    const largest = errors.reduce((most, error) => (Math.abs(error) > Math.abs(most) ? error : most))
    found.push({ operation, steps: errors.length, median: round(median(errors)), largest: round(largest) })
  }
  return found
}

const errorOf = ({ ms, predicted_ms: predicted }: OperationRow): ReadonlyArray<number> =>
  predicted === null ? [] : [predicted / ms - 1]

const median = (list: ReadonlyArray<number>): number => list.toSorted((a, b) => a - b)[list.length >> 1]!
const round = (value: number): number => Number(value.toPrecision(4))
const percent = (share: number): string => `${(100 * share).toFixed(1)}%`
const signed = (share: number): string => `${share < 0 ? "" : "+"}${percent(share)}`
const print = (line: string) => void process.stdout.write(`${line}\n`)
