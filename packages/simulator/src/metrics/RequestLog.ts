import type { Workload } from "../workload/Workload.ts"

/** What became of a request. Everything but `completed` is a miss. */
export const RequestStatus = {
  /** Not ended when the run was. */
  unfinished: 0,
  completed: 1,
  /** Refused for now: a queue was full. */
  rejected: 2,
  /** Refused for good: it could never fit. */
  tooLong: 3,
  /** Given up by its client. */
  aborted: 4,
  timedOut: 5,
  failed: 6,
  /** Not offered before the run ended. */
  notOffered: 7,
} as const

/** What happened to every request of a workload, column by column. Times are µs; −1 where it did not happen. */
export class RequestLog {
  readonly count: number
  readonly status: Uint8Array
  /** When it was offered: its arrival, or after the request it waits for. */
  readonly arrival: Float64Array
  readonly firstScheduled: Float64Array
  readonly firstToken: Float64Array
  readonly lastToken: Float64Array
  readonly outputs: Int32Array
  readonly maxGap: Float64Array
  readonly preemptions: Int32Array
  /** Rows kept after the last selection; −1 for a request that did not drop. */
  readonly keptRows: Int32Array
  /** Prompt tokens that a prefix cache already held. */
  readonly cachedTokens: Int32Array
  /** 1: served at a lower p than the schedule's, so that first tokens come in time. */
  readonly lowered: Uint8Array
  readonly replica: Uint16Array

  constructor(workload: Workload) {
    const { count } = workload
    this.count = count
    this.status = new Uint8Array(count).fill(RequestStatus.notOffered)
    this.arrival = new Float64Array(count).fill(-1)
    this.firstScheduled = new Float64Array(count).fill(-1)
    this.firstToken = new Float64Array(count).fill(-1)
    this.lastToken = new Float64Array(count).fill(-1)
    this.outputs = new Int32Array(count)
    this.maxGap = new Float64Array(count)
    this.preemptions = new Int32Array(count)
    this.keptRows = new Int32Array(count).fill(-1)
    this.cachedTokens = new Int32Array(count)
    this.lowered = new Uint8Array(count)
    this.replica = new Uint16Array(count)
  }
}
