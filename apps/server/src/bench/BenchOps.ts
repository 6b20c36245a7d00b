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
import { StepProbe } from "./StepProbe.ts"

export type BenchOpsSettings = OptionValues<typeof benchOpsOptions>

/** Bytes that are copied at a time, at most. */
const copyBytes = 1 << 30
/** Decode steps that are looked at, after those that warm up. */
const decodeSteps = { warmUp: 4, timed: 12 } as const
/** Rows that decode while a prompt is computed, and the rows of both: as many as fill a device's tiles, as in the steps that a scheduler makes. */
const beside = { decodes: [8, 32, 96], rows: [64, 512, 2048] } as const
/** Selections are differences of steps: these need more of them. */
const leastSelections = 7
/** Rows that decode at a time, and what they have behind them. */
const decodeRows = [1, 8, 32, 64, 128, 256] as const
const contexts = [256, 2048] as const

/** Powers of two fill a device's tiles best; those between them, from 512 on, as other prompts do. */
const promptRows = (most: number): ReadonlyArray<number> => {
  const rows: Array<number> = []
  for (let power = 64; power <= most; power *= 2) {
    rows.push(power)
    const between = (power / 8) * 11
    if (power >= 512 && between <= most) rows.push(between)
  }
  return rows
}

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
    const measure = makeMeasure(probe, settings["num-iters"], longest, schedule.dropLayers.length > 0)
    const name = basename(resolve(directory))
    const copy = yield* showing("copies …", measure.copy)
    const linear = yield* showing("matrix products …", measure.linear)
    const items = yield* showing("items …", measure.items)
    const attention = yield* showing(`attention up to ${longest} tokens …`, measure.attention)
    const { decode, hostMicros, samplingMicros } = yield* showing("decode …", measure.decode)
    const mixed = yield* showing("decode beside prompts …", measure.mixed)
    const selection = yield* showing("selections …", measure.selection)
    const measurements: OpsMeasurements = {
      device: info.device,
      note:
        `uniprefill ${version} bench ops, prompts up to ${longest} tokens, medians of ${settings["num-iters"]}; what the model does between ` +
        "matrix products is in their rate",
      fittedTo: { model: name, tensorParallel: info.tensorParallel },
      copy,
      linear,
      attention,
      items,
      decode,
      mixed,
      selection,
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
    const errors = rows.flatMap(({ ms, predicted_ms: predicted }) =>
      predicted === null ? [] : [Math.abs(predicted / ms - 1)],
    )
    const error = { median: round(median(errors)), largest: round(Math.max(...errors)) }
    const file = settings.out
    if (file !== undefined) yield* writeCalibration(file, calibration)
    const results = rows.map((row) => ({
      ...row,
      ms: round(row.ms),
      predicted_ms: row.predicted_ms && round(row.predicted_ms),
    }))
    if (json) {
      return print(
        JSON.stringify({ device: info.device, model: name, results, prediction_error: error, calibration }, null, 2),
      )
    }
    print(`${directory} on ${info.device}; device time, medians of ${settings["num-iters"]}`)
    for (const { operation, case: what, ms, predicted_ms: predicted } of results) {
      const expected = predicted === null ? "" : `, predicted ${predicted}`
      print(`${operation.padEnd(26)} ${what.padEnd(34)} ${String(ms).padStart(9)} ms${expected}`)
    }
    print(`prediction of these steps: off by ${percent(error.median)} (median), ${percent(error.largest)} at most`)
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
    probe.slabsOf(rows, false) <= probe.freeSlabs && probe.slabsOf(rows, true) <= probe.freeSlabs
  while (longest > 0 && !fits(longest)) longest = Math.floor(longest * 0.8)
  return 64 * Math.floor(longest / 64)
}

const makeMeasure = (probe: StepProbe, iterations: number, longest: number, drops: boolean) => {
  const { info } = probe.executor
  const most = Math.min(info.maxRowsPerStep, longest)

  /** The median of repeated runs, one before them to warm up. */
  const repeated = <E, R>(once: Effect.Effect<TimedStep, E, R>) =>
    Effect.gen(function* () {
      yield* once
      const steps: Array<TimedStep> = []
      for (let i = 0; i < iterations; i++) steps.push(yield* once)
      return { load: steps[0]!.load, micros: median(steps.map(({ micros }) => micros)) } satisfies TimedStep
    })

  /** Prompts side by side, whole, in a step of their own. */
  const prompts = (count: number, rows: number) =>
    repeated(
      Effect.gen(function* () {
        for (let slot = 0; slot < count; slot++) {
          yield* probe.open(slot, rows, false)
          probe.item(slot, 0, rows)
        }
        const { load, deviceMicros } = yield* probe.run
        probe.close(Array.from({ length: count }, (_, slot) => slot))
        return { load, micros: deviceMicros }
      }),
    )

  const copy = Effect.gen(function* () {
    const { slabBytes, pageSize } = info.layout
    let rows = longest
    const slabsWanted = Math.min(copyBytes / slabBytes, probe.freeSlabs / 2)
    while (rows > pageSize && probe.slabsOf(rows, false) > slabsWanted) rows >>= 1
    const times: Array<number> = []
    let bytes = 0
    for (let i = 0; i <= iterations; i++) {
      yield* probe.open(0, longest, false)
      probe.reachAll(0, rows)
      yield* probe.run
      yield* probe.open(1, longest, false)
      bytes = 2 * slabBytes * probe.copy(0, 1)
      const { deviceMicros } = yield* probe.run
      probe.close([0, 1])
      if (i > 0) times.push(deviceMicros)
    }
    const micros = median(times)
    return micros > 0 ? { bytes, micros } : null
  })

  const linear = Effect.gen(function* () {
    const steps: Array<TimedStep> = []
    for (const rows of promptRows(most)) steps.push(yield* prompts(1, rows))
    return steps
  })

  const items = Effect.gen(function* () {
    return info.slots < 8 || most < 512 ? null : yield* prompts(8, 64)
  })

  const attention = Effect.gen(function* () {
    const rows = Math.min(most, Math.max(64, 64 * Math.floor(longest / 16 / 64)))
    const chunks: Array<ReadonlyArray<TimedStep>> = []
    for (let i = 0; i < iterations; i++) {
      yield* probe.open(0, longest, false)
      const pass: Array<TimedStep> = []
      for (let at = 0; at + rows <= longest; at += rows) {
        probe.item(0, at, rows)
        const { load, deviceMicros } = yield* probe.run
        pass.push({ load, micros: deviceMicros })
      }
      probe.close([0])
      chunks.push(pass)
    }
    return chunks[0]!.map(({ load }, i) => ({ load, micros: median(chunks.map((pass) => pass[i]!.micros)) }))
  })

  /** Has so many requests with so much behind them decode together; further steps each add a row to all of them. */
  const start = (count: number, context: number, temperature: number) =>
    Effect.gen(function* () {
      const sampling = { temperature, topP: temperature > 0 ? 0.9 : 1 }
      const slots = Array.from({ length: count }, (_, slot) => slot)
      let rows = 0
      for (const slot of slots) {
        if (rows > 0 && rows + context > info.maxRowsPerStep) {
          yield* probe.run
          rows = 0
        }
        yield* probe.open(slot, context, false, { ...sampling, seed: BigInt(slot) })
        for (let at = 0; at < context; at += most) {
          if (at > 0) yield* probe.run
          probe.item(slot, at, Math.min(most, context - at))
        }
        probe.sample(slot)
        rows += context
      }
      yield* probe.run
      for (const slot of slots) probe.join(slot)
      let decoded = 0
      const grow = () => {
        decoded++
        for (const slot of slots) probe.reachAll(slot, context + decoded)
      }
      const end = Effect.suspend(() => {
        probe.close(slots, true)
        return probe.run
      })
      return { grow, end }
    })

  const decoding = (count: number, context: number, temperature: number) =>
    Effect.gen(function* () {
      const { grow, end } = yield* start(count, context, temperature)
      const steps = []
      for (let i = 0; i < decodeSteps.warmUp + decodeSteps.timed; i++) {
        grow()
        yield* probe.send
        if (i > 0) steps.push(yield* probe.answer)
      }
      steps.push(yield* probe.answer)
      yield* end
      const timed = steps.slice(decodeSteps.warmUp)
      const [device, wall] = [timed.map(({ deviceMicros }) => deviceMicros), timed.map(({ wallMicros }) => wallMicros)]
      const step: TimedStep = { load: timed[timed.length >> 1]!.load, micros: median(device) }
      return { step, hostMicros: Math.max(0, median(wall) - median(device)) }
    })

  const mixed = Effect.gen(function* () {
    const steps: Array<TimedStep> = []
    for (const decodes of beside.decodes) {
      if (info.slots <= decodes || decodes * probe.slabsOf(2 * contexts[0], false) > probe.freeSlabs / 2) break
      const { grow, end } = yield* start(decodes, contexts[0], 0)
      for (const rows of beside.rows.filter((all) => all > decodes && all <= most).map((all) => all - decodes)) {
        steps.push(
          yield* repeated(
            Effect.gen(function* () {
              grow()
              yield* probe.open(decodes, rows, false)
              probe.item(decodes, 0, rows)
              const { load, deviceMicros } = yield* probe.run
              probe.close([decodes])
              return { load, micros: deviceMicros }
            }),
          ),
        )
      }
      yield* end
    }
    return steps
  })

  const decode = Effect.gen(function* () {
    const steps: Array<TimedStep> = []
    let hostMicros = 0
    const fits = (count: number, context: number) =>
      count <= info.slots &&
      context + decodeSteps.warmUp + decodeSteps.timed <= longest &&
      count * probe.slabsOf(context + info.layout.pageSize, false) <= probe.freeSlabs
    const counts = decodeRows.filter((count) => fits(count, contexts[0]))
    for (const count of counts) {
      for (const context of contexts) {
        if (!fits(count, context)) continue
        const { step, hostMicros: host } = yield* decoding(count, context, 0)
        steps.push(step)
        hostMicros = host
      }
    }
    const [count, context] = [counts.at(-1)!, contexts[0]]
    const greedy = steps.find(({ load }) => load.decodeRows === count)!
    const drawn = yield* decoding(count, context, 1)
    return { decode: steps, hostMicros, samplingMicros: Math.max(0, drawn.step.micros - greedy.micros) }
  })

  const selection = Effect.gen(function* () {
    const found: Array<OpsMeasurements["selection"][number]> = []
    if (!drops) return found
    const lengths = [longest / 64, longest / 16, longest / 4].map((length) => 64 * Math.floor(length / 64))
    for (const length of new Set(lengths.map((rows) => Math.max(rows, 1024)))) {
      const pairs: Array<{ readonly plain: TimedStep; readonly chunk: TimedStep }> = []
      for (let i = 0; i <= Math.max(leastSelections, iterations); i++) {
        yield* probe.open(0, length, true)
        for (let at = 0; at < length - 128; at += most) {
          probe.item(0, at, Math.min(most, length - 128 - at))
          yield* probe.run
        }
        const last = function* (at: number) {
          probe.item(0, at, 64)
          const { load, deviceMicros } = yield* probe.run
          return { load, micros: deviceMicros }
        }
        const plain = yield* last(length - 128)
        const chunk = yield* last(length - 64)
        probe.close([0])
        if (i > 0) pairs.push({ plain, chunk })
      }
      const middle = (of: "plain" | "chunk"): TimedStep => ({
        load: pairs[0]![of].load,
        micros: median(pairs.map((pair) => pair[of].micros)),
      })
      found.push({ plain: middle("plain"), chunk: middle("chunk") })
    }
    return found
  })

  return { copy, linear, items, attention, decode, mixed, selection }
}

const rowsOf = (measured: OpsMeasurements, costModel: DeviceCostModel): Array<OperationRow> => {
  const rows: Array<OperationRow> = []
  const add = (operation: string, what: string, { load, micros }: TimedStep) =>
    rows.push({ operation, case: what, ms: micros / 1000, predicted_ms: costModel.stepMicros(load) / 1000 })
  const { copy, linear, items, attention, decode, mixed, selection } = measured
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
  return rows
}

const median = (list: ReadonlyArray<number>): number => list.toSorted((a, b) => a - b)[list.length >> 1]!
const round = (value: number): number => Number(value.toPrecision(4))
const percent = (share: number): string => `${(100 * share).toFixed(1)}%`
const print = (line: string) => void process.stdout.write(`${line}\n`)
