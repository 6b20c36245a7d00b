import { type Calibration, scaledCalibration } from "@uniprefill/cost-model/Calibration"
import { calibrationOf } from "@uniprefill/cost-model/DeviceSpec"
import type { Experiment } from "../scenario/Build.ts"
import { Simulation } from "../Simulation.ts"
import { jsonLines } from "../workload/TraceRows.ts"

/** A request of a recorded run: when it was queued (µs), and its latencies (ms). */
export interface RecordedRequest {
  readonly queuedMicros: number
  readonly ttft: number
  /** NaN for an output of one token. */
  readonly tpot: number
}

/**
 * The requests of a run of `vllm bench` as LLMServingSim publishes them, in order of the workload's rows: `request_id`
 * (`bench-N`), `output_toks`, and `queued_ts`, `first_token_ts`, `last_token_ts` in seconds of one clock. Fails with
 * TraceError naming file and line.
 */
export const readRecordedRun = (file: string, text: string): ReadonlyArray<RecordedRequest> => {
  const requests: Array<RecordedRequest> = []
  for (const row of jsonLines(file, text)) {
    const number = /(\d+)$/.exec(row.text("request_id"))?.[1]
    if (number === undefined) row.fail("request_id does not end in the number of its row")
    const [queued, first, last] = ["queued_ts", "first_token_ts", "last_token_ts"].map((name) => row.number(name))
    const outputs = row.integer("output_toks", 1, 1e9)
    requests[Number(number)] = {
      queuedMicros: queued! * 1e6,
      ttft: (first! - queued!) * 1000,
      tpot: outputs > 1 ? ((last! - first!) * 1000) / (outputs - 1) : Number.NaN,
    }
  }
  return requests
}

export interface Fit {
  /** Factor on every rate of the device, and the time of a step whatever it holds. */
  readonly efficiency: number
  readonly stepMicros: number
  /** Mean relative error of a request's time per token among those fitted to. */
  readonly error: number
  /** What lies on the edge of the range that was looked at: such a number is a bound, not an estimate. */
  readonly onEdge: ReadonlyArray<string>
  readonly calibration: Calibration
  /** Latencies of the requests that were not fitted to, recorded and simulated, ms. */
  readonly held: ReadonlyArray<{ readonly recorded: RecordedRequest; readonly ttft: number; readonly tpot: number }>
}

export interface FitOptions {
  /** Requests fitted to: the first ones. */
  readonly fitted: number
  /** Ranges of both numbers. */
  readonly efficiency: readonly [from: number, to: number]
  readonly stepMicros: readonly [from: number, to: number]
}

export const fitDefaults: FitOptions = { fitted: 100, efficiency: [0.4, 1.6], stepMicros: [0, 10_000] }

/** Points of each axis that are tried in a round, and how often the best one's neighbourhood is looked at more closely. */
const points = 9
const rounds = 3

/**
 * Fits two numbers to the times per token of a recorded run's first requests. They trade off along a valley, so the whole
 * plane is looked at before the neighbourhood of the best point. Requires a workload row for each recorded request.
 */
export const fitToRun = (
  experiment: Experiment,
  recorded: ReadonlyArray<RecordedRequest>,
  options: FitOptions = fitDefaults,
): Fit => {
  const calibrate = (efficiency: number, stepMicros: number): Calibration => ({
    ...scaledCalibration(calibrationOf(experiment.setup.device), efficiency),
    stepMicros,
  })
  const errorOf = (efficiency: number, stepMicros: number): number => {
    const made = simulateRun(experiment, recorded, calibrate(efficiency, stepMicros))
    let sum = 0
    let count = 0
    for (let row = 0; row < Math.min(options.fitted, recorded.length); row++) {
      const { tpot } = recorded[row]!
      if (Number.isNaN(tpot) || Number.isNaN(made[row]!.tpot)) continue
      sum += Math.abs(made[row]!.tpot / tpot - 1)
      count++
    }
    return count === 0 ? Number.POSITIVE_INFINITY : sum / count
  }
  let best = { efficiency: Number.NaN, stepMicros: Number.NaN, error: Number.POSITIVE_INFINITY }
  let [eFrom, eTo] = options.efficiency
  let [mFrom, mTo] = options.stepMicros
  for (let round = 0; round < rounds; round++) {
    const [eStep, mStep] = [(eTo - eFrom) / (points - 1), (mTo - mFrom) / (points - 1)]
    for (let e = 0; e < points; e++) {
      for (let m = 0; m < points; m++) {
        const [efficiency, stepMicros] = [eFrom + e * eStep, Math.round(mFrom + m * mStep)]
        const error = errorOf(efficiency, stepMicros)
        if (error < best.error) best = { efficiency, stepMicros, error }
      }
    }
    ;[eFrom, eTo] = around(best.efficiency, eStep, options.efficiency)
    ;[mFrom, mTo] = around(best.stepMicros, mStep, options.stepMicros)
  }
  const { efficiency, stepMicros, error } = best
  const made = simulateRun(experiment, recorded, calibrate(efficiency, stepMicros))
  const { scenario, setup } = experiment
  return {
    efficiency,
    stepMicros,
    error,
    onEdge: [
      ...(options.efficiency.includes(efficiency) ? [`the factor on rates, ${efficiency}`] : []),
      ...(options.stepMicros.includes(stepMicros) ? [`the time of a step, ${stepMicros} µs`] : []),
    ],
    calibration: {
      ...calibrate(efficiency, stepMicros),
      source: "fitted",
      note: `${calibrationOf(setup.device).note}, × ${efficiency.toFixed(3)}, ${stepMicros} µs a step: fitted to ${Math.min(options.fitted, recorded.length)} requests`,
      fittedTo: { model: scenario.model, tensorParallel: setup.tensorParallel },
    },
    held: recorded.slice(options.fitted).map((one, i) => ({ recorded: one, ...made[options.fitted + i]! })),
  }
}

const around = (
  middle: number,
  half: number,
  [from, to]: readonly [number, number],
): readonly [from: number, to: number] => [Math.max(from, middle - half), Math.min(to, middle + half)]

/** Time to first token and per token of every request, ms, when they are queued as they were. */
const simulateRun = (
  { setup, workload }: Experiment,
  recorded: ReadonlyArray<RecordedRequest>,
  calibration: Calibration,
): ReadonlyArray<{ readonly ttft: number; readonly tpot: number }> => {
  const first = recorded[0]!.queuedMicros
  const arrivalMicros = Float64Array.from(recorded, (one) => Math.max(0, Math.round(one.queuedMicros - first)))
  const host = { ...setup.host, launchMicros: 0, itemMicros: 0 }
  const simulation = new Simulation(
    { ...setup, host, device: { ...setup.device, calibration } },
    { ...workload, count: recorded.length, arrivalMicros },
  )
  simulation.advance()
  const { log } = simulation
  return recorded.map((_, row) => ({
    ttft: (log.firstToken[row]! - log.arrival[row]!) / 1000,
    tpot:
      log.outputs[row]! > 1
        ? (log.lastToken[row]! - log.firstToken[row]!) / 1000 / (log.outputs[row]! - 1)
        : Number.NaN,
  }))
}
