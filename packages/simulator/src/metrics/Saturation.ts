import { RequestStatus, type RequestLog } from "./RequestLog.ts"

/** Whether a run was offered more than it served: then its latencies grow with the length of the trace and say little else. */
export interface Saturation {
  /** Requests a second while they arrived. */
  readonly offered: number
  readonly served: number
  /** Requests that had arrived and not ended, at half of the arrivals' time and at its end. */
  readonly backlogHalfway: number
  readonly backlogAtEnd: number
  readonly isSaturated: boolean
}

/** Served below this share of offered, with a growing backlog, is saturated. */
const servedShare = 0.95
/** A backlog that grows by fewer requests than this, or by less than this share of the second half's arrivals, does not count. */
const leastGrowth = 10
const growthShare = 0.05

/** Null where requests wait for others' ends, so that the load follows the service, and where all arrive at one time. */
export const saturationOf = (log: RequestLog, after: ArrayLike<number>): Saturation | null => {
  let last = 0
  for (let row = 0; row < log.count; row++) {
    if (after[row]! >= 0) return null
    last = Math.max(last, log.arrival[row]!)
  }
  if (last <= 0) return null
  const half = last / 2
  let arrived = 0
  let arrivedFirst = 0
  let ended = 0
  let endedFirst = 0
  let served = 0
  for (let row = 0; row < log.count; row++) {
    const { notOffered, unfinished, completed } = RequestStatus
    const status = log.status[row]!
    if (status === notOffered) continue
    arrived++
    if (log.arrival[row]! <= half) arrivedFirst++
    if (status === unfinished) continue
    // What was refused ended when it came.
    const end = log.lastToken[row]! < 0 ? log.arrival[row]! : log.lastToken[row]!
    if (end <= last) ended++
    if (end <= half) endedFirst++
    if (status === completed && end <= last) served++
  }
  const seconds = last / 1e6
  const backlogHalfway = arrivedFirst - endedFirst
  const backlogAtEnd = arrived - ended
  const growth = backlogAtEnd - backlogHalfway
  const grows = growth > Math.max(leastGrowth, growthShare * (arrived - arrivedFirst))
  return {
    offered: arrived / seconds,
    served: served / seconds,
    backlogHalfway,
    backlogAtEnd,
    isSaturated: grows && served < servedShare * arrived,
  }
}

/** The verdict in words; null where the load was served. */
export const saturationText = (saturation: Saturation | null): string | null =>
  saturation?.isSaturated === true
    ? `SATURATED: served ${saturation.served.toFixed(2)} of ${saturation.offered.toFixed(2)} requests/s, the queue still growing ` +
      `(${saturation.backlogHalfway} halfway, ${saturation.backlogAtEnd} at the end); latencies are those of a queue without end`
    : null
