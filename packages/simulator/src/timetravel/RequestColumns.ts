import { RequestStatus } from "../metrics/RequestLog.ts"
import type { Simulation } from "../Simulation.ts"

/** What became of every request, as a timeline draws it. Times are µs, −1 where it did not happen. */
export interface RequestColumns {
  readonly count: number
  readonly arrival: Float64Array
  readonly firstScheduled: Float64Array
  readonly firstToken: Float64Array
  readonly lastToken: Float64Array
  /** Largest gap between two tokens. */
  readonly maxGap: Float64Array
  readonly promptTokens: Int32Array
  readonly outputs: Int32Array
  /** See `RequestStatus`. */
  readonly status: Uint8Array
  readonly replica: Uint16Array
  /** Rows kept after the last selection, −1 for a request that did not drop. */
  readonly keptRows: Int32Array
  readonly cachedTokens: Int32Array
  readonly preemptions: Int32Array
  readonly priority: Int32Array
  /** Index into `tenants`. */
  readonly tenant: Int32Array
  readonly tenants: ReadonlyArray<string>
}

/** Names of the values of `RequestColumns.status`, by value. */
export const statusNames: ReadonlyArray<keyof typeof RequestStatus> = Object.keys(RequestStatus) as ReadonlyArray<
  keyof typeof RequestStatus
>

/** Copies, so that looking back at the simulation leaves them alone. */
export const requestColumns = ({ log, workload }: Simulation): RequestColumns => ({
  count: log.count,
  arrival: log.arrival.slice(),
  firstScheduled: log.firstScheduled.slice(),
  firstToken: log.firstToken.slice(),
  lastToken: log.lastToken.slice(),
  maxGap: log.maxGap.slice(),
  promptTokens: workload.promptTokens.slice(),
  outputs: log.outputs.slice(),
  status: log.status.slice(),
  replica: log.replica.slice(),
  keptRows: log.keptRows.slice(),
  cachedTokens: log.cachedTokens.slice(),
  preemptions: log.preemptions.slice(),
  priority: workload.priority.slice(),
  tenant: workload.tenant.slice(),
  tenants: workload.tenants,
})
