import type { DeviceSpec } from "@uniprefill/cost-model/DeviceSpec"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { type Scenario, withDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { type RequestLog, RequestStatus } from "@uniprefill/simulator/metrics/RequestLog"
import type { ReplicaEvents } from "@uniprefill/simulator/Replica"
import { type Observer, Simulation } from "@uniprefill/simulator/Simulation"
import { workloadOf, type WorkloadRow } from "@uniprefill/simulator/workload/Workload"

/** Who asks for what, and the server that it is asked of. */
export interface Load {
  /** In any order of arrival. */
  readonly rows: ReadonlyArray<LoadRow>
  readonly scenario?: Scenario
  /** In place of the scenario's. */
  readonly device?: DeviceSpec
}

export interface LoadRow extends WorkloadRow {
  /** What results are asked for by; not known to the server. */
  readonly group?: string | undefined
}

const seconds = 1e6

/** A load served under the virtual clock, in milliseconds. */
export class ServedLoad {
  readonly simulation: Simulation
  /** Time of every step on the device. */
  readonly stepMillis: Array<number> = []
  /** Rows of the first segment that were computed, those computed again included. */
  prefillRows = 0
  private readonly groups: ReadonlyArray<string>
  private readonly tokenTimes: ReadonlyArray<Array<number>>

  constructor({ rows, scenario = {}, device }: Load, observer: Observer = {}) {
    const sorted = rows.toSorted((a, b) => a.arrivalMicros - b.arrivalMicros)
    this.groups = sorted.map(({ group }) => group ?? "")
    const { setup } = buildExperiment(
      withDefaults({ ...llamaOnH100, ...scenario, engine: { ...engine, ...scenario.engine } }),
      () => {
        throw new Error("loads read no files")
      },
    )
    this.tokenTimes = sorted.map(() => [])
    this.simulation = new Simulation(
      device === undefined ? setup : { ...setup, device },
      workloadOf(
        "load",
        [],
        0,
        sorted.map((row) => ({ ...row, maxTokens: row.maxTokens ?? row.outputTokens })),
      ),
      {
        ...observer,
        stepStarted: (replica, step, endMicros) => {
          this.stepMillis.push(step.deviceMicros / 1000)
          this.prefillRows += replica.device.load.rows[0]!
          observer.stepStarted?.(replica, step, endMicros)
        },
      },
    )
    const { log } = this.simulation
    // The log keeps the first token and the last: every one of them is wanted here.
    for (const replica of this.simulation.replicas) {
      const events = replica["events"] as { tokens: ReplicaEvents["tokens"] }
      const { tokens } = events
      events.tokens = (of, list) => {
        for (let i = 0; i < list.length; i++) {
          this.tokenTimes[replica.rowOf(list.requests[i]!.id)]!.push(this.simulation.now / 1000)
        }
        tokens(of, list)
      }
    }
    this.simulation.advance()
    for (const [row, times] of this.tokenTimes.entries()) {
      if (times.length < log.outputs[row]!)
        throw new Error(`saw ${times.length} of ${log.outputs[row]!} tokens of row ${row}`)
    }
  }

  get log(): RequestLog {
    return this.simulation.log
  }

  /** Rows of a group, in order of arrival. */
  rowsOf(group: string): ReadonlyArray<number> {
    return this.groups.flatMap((one, row) => (one === group ? [row] : []))
  }

  /** Times to the first token; of requests that got none, the time until the end of the run. */
  ttft(group = ""): ReadonlyArray<number> {
    const { log, simulation } = this
    return this.rowsOf(group).map(
      (row) => ((log.firstToken[row]! >= 0 ? log.firstToken[row]! : simulation.now) - log.arrival[row]!) / 1000,
    )
  }

  /** Every gap between two tokens of an answer. */
  gaps(group = "", skip = 0): ReadonlyArray<number> {
    return this.rowsOf(group).flatMap((row) =>
      this.tokenTimes[row]!.slice(1 + skip).map((at, i) => at - this.tokenTimes[row]![i + skip]!),
    )
  }

  /** The gap after each answer's first token. */
  firstGaps(group = ""): ReadonlyArray<number> {
    return this.rowsOf(group).flatMap((row) =>
      this.tokenTimes[row]!.length > 1 ? [this.tokenTimes[row]![1]! - this.tokenTimes[row]![0]!] : [],
    )
  }

  count(group: string, status: keyof typeof RequestStatus): number {
    return this.rowsOf(group).filter((row) => this.log.status[row] === RequestStatus[status]).length
  }

  get makespan(): number {
    return Math.max(...this.log.lastToken) / 1000
  }
}

export const percentile = (values: ReadonlyArray<number>, share: number): number => {
  const sorted = values.toSorted((a, b) => a - b)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? Number.NaN
}

export const largest = (values: ReadonlyArray<number>): number =>
  values.reduce((a, b) => Math.max(a, b), Number.NEGATIVE_INFINITY)

/** `count` requests like this one, `perSecond` from `from` seconds on at even distances; 0: all at once. */
export const stream = (
  count: number,
  perSecond: number,
  row: Omit<LoadRow, "arrivalMicros">,
  from = 0,
): Array<LoadRow> =>
  Array.from({ length: count }, (_, i) => ({
    ...row,
    arrivalMicros: Math.round((from + (perSecond === 0 ? 0 : i / perSecond)) * seconds),
  }))

const llamaOnH100 = { model: "llama-3.1-8b", device: "h100", schedule: "preset" } as const
const engine = {
  slots: 64,
  stepBudgetMs: 50,
  idleStepBudgetMs: 500,
  maxPrefillWaitMs: 2000,
  protectAfter: 8,
  protectAfterMs: 30_000,
  stepsInFlight: 1,
  maxWaiting: 1024,
  maxWaitingTokens: 4_194_304,
  prefixCaching: false,
} as const
