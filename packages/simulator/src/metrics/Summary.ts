import type { Simulation } from "../Simulation.ts"
import { distributionOf, type Distribution } from "./Distribution.ts"
import { RequestStatus, type RequestLog } from "./RequestLog.ts"
import { type Saturation, saturationOf } from "./Saturation.ts"

/** Targets of one request; 0 for none. */
export interface Slo {
  readonly ttftMs: number
  readonly tpotMs: number
}

export interface SummaryOptions {
  readonly slo: Slo
  /** The first rows, which are offered and served but left out of latencies. */
  readonly warmupRequests: number
  /** Price of one device for an hour; 0 when it is not known. */
  readonly gpuHourPrice: number
}

/** What a run came to. Times are ms; definitions in docs/metrics.md. */
export interface Summary {
  /** False: the run was ended before its workload was. */
  readonly complete: boolean
  readonly hash: string
  readonly warmupRequests: number
  readonly durationSeconds: number
  readonly offered: number
  readonly completed: number
  readonly rejected: number
  readonly tooLong: number
  readonly aborted: number
  readonly timedOut: number
  readonly failed: number
  readonly unfinished: number
  readonly inputTokens: number
  readonly outputTokens: number
  readonly cachedTokens: number
  readonly requestsPerSecond: number
  readonly inputTokensPerSecond: number
  readonly outputTokensPerSecond: number
  readonly slo: Slo
  /** Null where it cannot be said: closed loops, sessions. */
  readonly saturation: Saturation | null
  /** Requests that met every target, per second and as a share of all offered. */
  readonly goodput: number
  readonly attainment: number
  readonly ttft: Distribution
  readonly tpot: Distribution
  readonly itl: Distribution
  readonly e2e: Distribution
  readonly queueing: Distribution
  readonly maxItl: Distribution
  /** End-to-end latency for each output token. */
  readonly normalised: Distribution
  readonly byLength: ReadonlyArray<LengthBucket>
  /** Rows of each segment's kept set, as a share of the prompt rows; empty without drop layers. */
  readonly keptShares: ReadonlyArray<number>
  /** Completed requests that were served at a lower p than the schedule's, so that first tokens come in time. */
  readonly lowered: number
  /** Share of the memory pool in use, mean and highest sample. */
  readonly memoryMean: number
  readonly memoryMax: number
  readonly steps: number
  /** Share of the steps with rows whose time rests on something that was not measured; 1 without any. */
  readonly outsideShare: number
  readonly stepsOutsideCalibration: number
  readonly preemptions: number
  readonly overBudgetChunks: number
  readonly stepsFailed: number
  /** Share of the time that devices computed, and of their peak that model operations took. */
  readonly utilisation: number
  readonly mfu: number
  readonly gpuHours: number
  readonly pricePerMillionOutputTokens: number
  readonly pricePerMillionTokens: number
}

export interface LengthBucket {
  /** Prompt tokens, the upper end excluded. */
  readonly from: number
  readonly to: number
  readonly offered: number
  readonly ttft: Distribution
  readonly attainment: number
  /** Rows after the last selection as a share of the prompt, of requests that dropped; NaN where none did. */
  readonly kept: number
}

const bucketEnds = [1024, 4096, 8192, 16_384, 32_768, 65_536, 131_072, Number.MAX_SAFE_INTEGER]

export const summarise = (simulation: Simulation, options: SummaryOptions): Summary => {
  const { log, counters, workload, setup, replicas, now } = simulation
  const { slo, warmupRequests } = options
  const count = countStatuses(log)
  const seconds = now / 1e6
  const devices = setup.tensorParallel * setup.replicas
  let inputTokens = 0
  let outputTokens = 0
  let cachedTokens = 0
  let met = 0
  let lowered = 0
  for (let row = 0; row < log.count; row++) {
    if (log.status[row] !== RequestStatus.completed) continue
    inputTokens += workload.promptTokens[row]!
    outputTokens += log.outputs[row]!
    cachedTokens += log.cachedTokens[row]!
    lowered += log.lowered[row]!
    if (meets(log, row, slo)) met++
  }
  const gpuHours = (devices * seconds) / 3600
  const price = gpuHours * options.gpuHourPrice
  const perMillion = (tokens: number) => (tokens === 0 || price === 0 ? Number.NaN : (price / tokens) * 1e6)
  const { gaps } = counters
  const { used } = counters.occupancy.series
  const flops = replicas[0]!.config.costModel.flops(counters.work)
  const pool = replicas.reduce((sum, replica) => sum + replica.config.slabs, 0)
  return {
    complete: simulation.isDone && count.unfinished === 0 && count.notOffered === 0,
    hash: simulation.hash,
    warmupRequests,
    durationSeconds: seconds,
    offered: log.count - count.notOffered,
    completed: count.completed,
    rejected: count.rejected,
    tooLong: count.tooLong,
    aborted: count.aborted,
    timedOut: count.timedOut,
    failed: count.failed,
    unfinished: count.unfinished,
    inputTokens,
    outputTokens,
    cachedTokens,
    requestsPerSecond: count.completed / seconds,
    inputTokensPerSecond: inputTokens / seconds,
    outputTokensPerSecond: outputTokens / seconds,
    slo,
    saturation: saturationOf(log, workload.after),
    goodput: met / seconds,
    attainment: met / Math.max(1, log.count - count.notOffered),
    ttft: distributionOf(valuesOf(log, warmupRequests, (row) => (log.firstToken[row]! - log.arrival[row]!) / 1000)),
    tpot: distributionOf(valuesOf(log, warmupRequests, (row) => (log.outputs[row]! > 1 ? tpotOf(log, row) : null))),
    itl: {
      n: gaps.count,
      mean: gaps.mean / 1000,
      std: gaps.std / 1000,
      p50: gaps.percentile(0.5) / 1000,
      p90: gaps.percentile(0.9) / 1000,
      p95: gaps.percentile(0.95) / 1000,
      p99: gaps.percentile(0.99) / 1000,
      max: gaps.count === 0 ? Number.NaN : gaps.max / 1000,
    },
    e2e: distributionOf(valuesOf(log, warmupRequests, (row) => (log.lastToken[row]! - log.arrival[row]!) / 1000)),
    queueing: distributionOf(
      valuesOf(log, warmupRequests, (row) => (log.firstScheduled[row]! - log.arrival[row]!) / 1000),
    ),
    maxItl: distributionOf(
      valuesOf(log, warmupRequests, (row) => (log.outputs[row]! > 1 ? log.maxGap[row]! / 1000 : null)),
    ),
    normalised: distributionOf(
      valuesOf(log, warmupRequests, (row) => (log.lastToken[row]! - log.arrival[row]!) / 1000 / log.outputs[row]!),
    ),
    byLength: byLength(simulation, options),
    keptShares:
      counters.droppingPromptRows === 0
        ? []
        : Array.from(counters.keptRows, (rows) => rows / counters.droppingPromptRows),
    lowered,
    memoryMean: mean(used) / pool,
    memoryMax: used.reduce((most, slabs) => Math.max(most, slabs), 0) / pool,
    steps: counters.steps,
    outsideShare: counters.computingSteps === 0 ? 1 : counters.stepsOutsideCalibration / counters.computingSteps,
    stepsOutsideCalibration: counters.stepsOutsideCalibration,
    preemptions: replicas.reduce((sum, { driver }) => sum + driver.scheduler.preemptions, 0),
    overBudgetChunks: replicas.reduce((sum, { driver }) => sum + driver.scheduler.overBudgetChunks, 0),
    stepsFailed: counters.stepsFailed,
    utilisation: counters.busyMicros / (now * setup.replicas),
    mfu: (flops * setup.tensorParallel) / (now * devices * setup.device.peakTeraFlops * 1e6),
    gpuHours,
    pricePerMillionOutputTokens: perMillion(outputTokens),
    pricePerMillionTokens: perMillion(inputTokens + outputTokens),
  }
}

/** Mean time per output token after the first, ms. Requires at least two. */
export const tpotOf = (log: RequestLog, row: number): number =>
  (log.lastToken[row]! - log.firstToken[row]!) / 1000 / (log.outputs[row]! - 1)

/** Whether a request completed within its targets. */
export const meets = (log: RequestLog, row: number, slo: Slo): boolean =>
  log.status[row] === RequestStatus.completed &&
  (slo.ttftMs === 0 || log.firstToken[row]! - log.arrival[row]! <= slo.ttftMs * 1000) &&
  (slo.tpotMs === 0 || log.outputs[row]! < 2 || tpotOf(log, row) <= slo.tpotMs)

/** A value for each completed request after the warm-up that has one. */
export const valuesOf = (log: RequestLog, from: number, value: (row: number) => number | null): Float64Array => {
  const values: Array<number> = []
  for (let row = from; row < log.count; row++) {
    if (log.status[row] !== RequestStatus.completed) continue
    const one = value(row)
    if (one !== null) values.push(one)
  }
  return Float64Array.from(values)
}

const countStatuses = (log: RequestLog): Record<keyof typeof RequestStatus, number> => {
  const counts = new Array<number>(Object.keys(RequestStatus).length).fill(0)
  for (const status of log.status) counts[status]!++
  const named = Object.entries(RequestStatus).map(([name, status]) => [name, counts[status]!])
  return Object.fromEntries(named) as Record<keyof typeof RequestStatus, number>
}

const byLength = (simulation: Simulation, { slo, warmupRequests }: SummaryOptions): Array<LengthBucket> => {
  const { log, workload } = simulation
  const buckets: Array<LengthBucket> = []
  for (const [b, to] of bucketEnds.entries()) {
    const from = b === 0 ? 1 : bucketEnds[b - 1]!
    const ttft: Array<number> = []
    let offered = 0
    let met = 0
    let kept = 0
    let prompts = 0
    for (let row = warmupRequests; row < log.count; row++) {
      const tokens = workload.promptTokens[row]!
      if (tokens < from || tokens >= to || log.status[row] === RequestStatus.notOffered) continue
      offered++
      if (meets(log, row, slo)) met++
      if (log.status[row] === RequestStatus.completed) ttft.push((log.firstToken[row]! - log.arrival[row]!) / 1000)
      if (log.keptRows[row]! < 0) continue
      kept += log.keptRows[row]!
      prompts += tokens
    }
    if (offered === 0) continue
    buckets.push({
      from,
      to,
      offered,
      ttft: distributionOf(Float64Array.from(ttft)),
      attainment: met / offered,
      kept: kept / prompts,
    })
  }
  return buckets
}

const mean = (values: ReadonlyArray<number>): number =>
  values.length === 0 ? 0 : values.reduce((sum, value) => sum + value, 0) / values.length
