import type { Summary } from "../metrics/Summary.ts"
import { percentile } from "../metrics/Distribution.ts"
import { tenantFields } from "../metrics/TenantQueues.ts"
import { RequestStatus } from "../metrics/RequestLog.ts"
import { tpotOf, valuesOf } from "../metrics/Summary.ts"
import type { Experiment } from "../scenario/Build.ts"
import type { Simulation } from "../Simulation.ts"
import { type Provenance, provenanceOf } from "./Provenance.ts"

/** What a report shows of one run, thinned to what can be seen. Plain data: it crosses threads and goes into files. */
export interface RunReport {
  readonly name: string
  readonly about: ReadonlyArray<string>
  readonly provenance: Provenance
  readonly summary: Summary
  /** `[ms, share of requests at or below]`. */
  readonly ttftCdf: ReadonlyArray<readonly [number, number]>
  readonly tpotCdf: ReadonlyArray<readonly [number, number]>
  readonly memory: MemorySeries
  /** Of each tenant, where there are several; at the times of `memory`. */
  readonly tenants: ReadonlyArray<TenantSeries>
  readonly waterfall: ReadonlyArray<WaterfallRow>
}

/** Share of the memory pool in use over time, by what uses it; and how many requests wait and run. */
export interface MemorySeries {
  readonly seconds: ReadonlyArray<number>
  readonly waiting: ReadonlyArray<number>
  readonly running: ReadonlyArray<number>
  readonly shares: ReadonlyArray<{ readonly name: string; readonly values: ReadonlyArray<number> }>
}

/** A tenant's queue over time. */
export interface TenantSeries {
  readonly tenant: string
  /** Requests. */
  readonly waiting: ReadonlyArray<number>
  readonly running: ReadonlyArray<number>
  /** Prompt tokens of those that wait. */
  readonly waitingTokens: ReadonlyArray<number>
}

/** A request's life, in seconds. */
export interface WaterfallRow {
  readonly row: number
  readonly promptTokens: number
  readonly outputTokens: number
  readonly arrival: number
  readonly scheduled: number
  readonly firstToken: number
  readonly end: number
}

const cdfPoints = 160
const seriesPoints = 240
const waterfallRows = 60

export const runReport = (
  name: string,
  about: ReadonlyArray<string>,
  experiment: Experiment,
  simulation: Simulation,
  summary: Summary,
): RunReport => {
  const { log, setup } = simulation
  return {
    name,
    about,
    provenance: provenanceOf(experiment, summary),
    summary,
    ttftCdf: cdf(valuesOf(log, summary.warmupRequests, (row) => (log.firstToken[row]! - log.arrival[row]!) / 1000)),
    tpotCdf: cdf(valuesOf(log, summary.warmupRequests, (row) => (log.outputs[row]! > 1 ? tpotOf(log, row) : null))),
    memory: memorySeries(simulation, setup.replicas),
    tenants: tenantSeries(simulation),
    waterfall: waterfall(simulation),
  }
}

const cdf = (values: Float64Array): Array<readonly [number, number]> => {
  if (values.length === 0) return []
  values.sort()
  return Array.from({ length: cdfPoints + 1 }, (_, i) => [percentile(values, i / cdfPoints), i / cdfPoints] as const)
}

/** A series of at most {@link seriesPoints} points. */
const thinned = (values: ReadonlyArray<number>): Array<number> => {
  const stride = Math.max(1, Math.ceil(values.length / seriesPoints))
  return values.filter((_, i) => i % stride === 0)
}

/** The queues of the tenants with most requests, and of all others together; none where there is but one tenant. */
export const tenantSeries = ({ counters, tenantQueues }: Simulation): Array<TenantSeries> => {
  const { byTenant } = counters.occupancy
  return tenantQueues.names.map((tenant, n) => {
    const [waiting, running, waitingTokens] = tenantFields.map((_, f) =>
      thinned(byTenant[n * tenantFields.length + f]!),
    )
    return { tenant, waiting: waiting!, running: running!, waitingTokens: waitingTokens! }
  })
}

/** Requests that wait and run over time, in all and by tenant, for the JSON result. Times in s. */
export const queueJson = (simulation: Simulation): Record<string, unknown> => {
  const { time, series } = simulation.counters.occupancy
  return {
    seconds: thinned(time).map((micros) => micros / 1e6),
    waiting: thinned(series.waiting),
    running: thinned(series.running),
    by_tenant: tenantSeries(simulation).map(({ tenant, waiting, running, waitingTokens }) => ({
      tenant,
      waiting,
      running,
      waiting_tokens: waitingTokens,
    })),
  }
}

const memorySeries = (simulation: Simulation, replicas: number): MemorySeries => {
  const { time, series, byTable } = simulation.counters.occupancy
  const { layout, slabs } = simulation.replicas[0]!.config
  const total = slabs * replicas
  const byName = new Map<string, Array<number>>()
  for (const [t, table] of layout.tables.entries()) {
    const name = table.kind === "carry" ? "carry" : `segment ${table.segment} ${table.kind}`
    const sum = byName.get(name) ?? []
    for (const [i, used] of thinned(byTable[t]!).entries()) sum[i] = (sum[i] ?? 0) + used / total
    byName.set(name, sum)
  }
  for (const [name, values] of [
    ["shared prefixes", series.cached],
    ["prefixes nobody uses", series.idle],
  ] as const) {
    if (values.some((used) => used > 0))
      byName.set(
        name,
        thinned(values).map((used) => used / total),
      )
  }
  return {
    seconds: thinned(time).map((micros) => micros / 1e6),
    waiting: thinned(series.waiting),
    running: thinned(series.running),
    shares: [...byName].map(([name, values]) => ({ name, values })),
  }
}

/** Consecutive requests from the middle of the run, where it is busy. */
const waterfall = ({ log, workload }: Simulation): Array<WaterfallRow> => {
  const rows: Array<WaterfallRow> = []
  for (let row = Math.floor(log.count / 2); row < log.count && rows.length < waterfallRows; row++) {
    if (log.status[row] !== RequestStatus.completed) continue
    rows.push({
      row,
      promptTokens: workload.promptTokens[row]!,
      outputTokens: log.outputs[row]!,
      arrival: log.arrival[row]! / 1e6,
      scheduled: log.firstScheduled[row]! / 1e6,
      firstToken: log.firstToken[row]! / 1e6,
      end: log.lastToken[row]! / 1e6,
    })
  }
  return rows
}
