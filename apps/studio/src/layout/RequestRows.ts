import type { RequestColumns } from "@uniprefill/simulator/timetravel/RequestColumns"
import type { Timeline } from "@uniprefill/simulator/timetravel/Timeline"
import type { Viewport } from "./Viewport.ts"

/** The life of every request, arranged by request: `[start[r], start[r + 1])` are its places in the columns. */
export interface RequestIndex {
  readonly requests: RequestColumns
  readonly itemStart: Uint32Array
  readonly itemFrom: Float64Array
  readonly itemTo: Float64Array
  readonly itemSegment: Uint8Array
  readonly preemptionStart: Uint32Array
  readonly preemptedAt: Float64Array
  /** From its arrival to the last that is known of it. */
  readonly begin: Float64Array
  readonly end: Float64Array
}

export const requestIndex = ({ steps, items, preemptions }: Timeline, requests: RequestColumns): RequestIndex => {
  const { count } = requests
  const itemStart = startsOf(items.request, count)
  const preemptionStart = startsOf(preemptions.request, count)
  const itemFrom = new Float64Array(items.count)
  const itemTo = new Float64Array(items.count)
  const itemSegment = new Uint8Array(items.count)
  const preemptedAt = new Float64Array(preemptions.count)
  const begin = requests.arrival.slice()
  const end = new Float64Array(count)
  for (let r = 0; r < count; r++) end[r] = Math.max(begin[r]!, requests.firstToken[r]!, requests.lastToken[r]!)
  const next = itemStart.slice()
  for (let i = 0; i < items.count; i++) {
    const request = items.request[i]!
    const at = next[request]!++
    const step = items.step[i]!
    itemFrom[at] = steps.start[step]!
    itemTo[at] = steps.start[step]! + steps.micros[step]!
    itemSegment[at] = items.lastSegment[i]!
    end[request] = Math.max(end[request]!, itemTo[at])
  }
  const nextPreemption = preemptionStart.slice()
  for (let i = 0; i < preemptions.count; i++) {
    const at = nextPreemption[preemptions.request[i]!]!++
    preemptedAt[at] = preemptions.time[i]!
  }
  return { requests, itemStart, itemFrom, itemTo, itemSegment, preemptionStart, preemptedAt, begin, end }
}

const startsOf = (of: Uint32Array, count: number): Uint32Array => {
  const starts = new Uint32Array(count + 1)
  for (const request of of) starts[request + 1]!++
  for (let r = 0; r < count; r++) starts[r + 1]! += starts[r]!
  return starts
}

/** What a request does for a while; prefill by its segment from {@link SpanKind.prefill} on. */
export const SpanKind = { waiting: 0, pending: 1, decode: 2, preempted: 3, prefill: 4 } as const

/** Calls `span` with what a request does, one after the other; what lies outside of the view is left out. */
export const spansOf = (
  index: RequestIndex,
  request: number,
  view: Viewport,
  span: (kind: number, from: number, to: number) => void,
): void => {
  const { requests, itemFrom, itemTo, itemSegment, preemptedAt } = index
  const within = (kind: number, from: number, to: number): void => {
    if (to > view.from && from < view.to && to > from) span(kind, from, to)
  }
  const arrival = requests.arrival[request]!
  if (arrival < 0) return
  const last = index.end[request]!
  const firstToken = requests.firstToken[request]!
  let at: number = arrival
  /** What it does between two pieces of prefill. */
  let between: number = SpanKind.waiting
  let preemption = index.preemptionStart[request]!
  const preemptions = index.preemptionStart[request + 1]!
  const until = (time: number): void => {
    while (preemption < preemptions && preemptedAt[preemption]! < time) {
      const when = Math.max(at, preemptedAt[preemption++]!)
      within(between, at, when)
      at = when
      between = SpanKind.preempted
    }
    within(between, at, time)
    at = Math.max(at, time)
  }
  for (let i = index.itemStart[request]!; i < index.itemStart[request + 1]!; i++) {
    until(itemFrom[i]!)
    within(SpanKind.prefill + itemSegment[i]!, itemFrom[i]!, itemTo[i]!)
    at = Math.max(at, itemTo[i]!)
    between = firstToken >= 0 && at >= firstToken ? SpanKind.decode : SpanKind.pending
  }
  until(last)
}

export const sortings = ["arrival", "TTFT", "duration", "queueing", "prompt", "output", "preemptions"] as const
export type Sorting = (typeof sortings)[number]
export const groupings = ["none", "replica", "outcome", "prompt length", "tenant"] as const
export type Grouping = (typeof groupings)[number]

/** Rows of requests, in order, with the places at which groups begin. */
export interface RequestOrder {
  readonly rows: Uint32Array
  readonly groups: ReadonlyArray<{ readonly label: string; readonly first: number; readonly count: number }>
}

/** Requests that were offered, sorted, the largest first but for arrivals. */
export const requestOrder = (
  { requests, end }: RequestIndex,
  sorting: Sorting,
  grouping: Grouping,
  statusNames: ReadonlyArray<string>,
): RequestOrder => {
  const value = sortValue(requests, end, sorting)
  const group = groupOf(requests, grouping, statusNames)
  const rows: Array<number> = []
  for (let row = 0; row < requests.count; row++) if (requests.arrival[row]! >= 0) rows.push(row)
  const keys = rows.map((row) => group(row))
  const labels = [...new Set(keys.map(([rank, label]) => `${String(rank).padStart(12, "0")}${label}`))].sort()
  const place = new Map(labels.map((label, i) => [label.slice(12), i]))
  const ofGroup = new Map(rows.map((row, i) => [row, place.get(keys[i]![1])!]))
  rows.sort((a, b) => ofGroup.get(a)! - ofGroup.get(b)! || value(a) - value(b) || a - b)
  const groups: Array<{ label: string; first: number; count: number }> = []
  for (const [i, row] of rows.entries()) {
    const label = labels[ofGroup.get(row)!]!.slice(12)
    if (groups.at(-1)?.label !== label) groups.push({ label, first: i, count: 0 })
    groups.at(-1)!.count++
  }
  return { rows: Uint32Array.from(rows), groups: grouping === "none" ? [] : groups }
}

const sortValue = (requests: RequestColumns, end: Float64Array, sorting: Sorting): ((row: number) => number) => {
  const { arrival, firstToken, firstScheduled } = requests
  /** Those without the value come last. */
  const descending = (of: (row: number) => number) => (row: number) => -of(row)
  switch (sorting) {
    case "arrival":
      return (row) => arrival[row]!
    case "TTFT":
      return descending((row) => (firstToken[row]! < 0 ? -1 : firstToken[row]! - arrival[row]!))
    case "duration":
      return descending((row) => end[row]! - arrival[row]!)
    case "queueing":
      return descending((row) => (firstScheduled[row]! < 0 ? -1 : firstScheduled[row]! - arrival[row]!))
    case "prompt":
      return descending((row) => requests.promptTokens[row]!)
    case "output":
      return descending((row) => requests.outputs[row]!)
    case "preemptions":
      return descending((row) => requests.preemptions[row]!)
  }
}

const lengthEnds = [1024, 4096, 16_384, 65_536] as const

const groupOf = (
  requests: RequestColumns,
  grouping: Grouping,
  statusNames: ReadonlyArray<string>,
): ((row: number) => readonly [rank: number, label: string]) => {
  switch (grouping) {
    case "none":
      return () => [0, ""]
    case "replica":
      return (row) => [requests.replica[row]!, `replica ${requests.replica[row]!}`]
    case "outcome":
      return (row) => [requests.status[row]!, statusNames[requests.status[row]!] ?? "unknown"]
    case "tenant":
      return (row) => [requests.tenant[row]!, requests.tenants[requests.tenant[row]!] ?? "unknown"]
    case "prompt length":
      return (row) => {
        const tokens = requests.promptTokens[row]!
        const end = lengthEnds.find((one) => tokens < one)
        const from = lengthEnds[lengthEnds.indexOf(end ?? 65_536) - 1]
        if (end === undefined) return [999_999_999, "64K tokens and more"]
        return [end, from === undefined ? "below 1K tokens" : `${from / 1024}K to ${end / 1024}K tokens`]
      }
  }
}

/** At most `most` rows, evenly spread over all of them; the row `kept` stays where it is among them. */
export const sampled = (rows: Uint32Array, most: number, kept: number): Uint32Array => {
  if (rows.length <= most) return rows
  const found = Uint32Array.from({ length: most }, (_, i) => rows[Math.floor((i * rows.length) / most)]!)
  const at = rows.indexOf(kept)
  if (at >= 0) found[Math.min(most - 1, Math.floor((at * most) / rows.length))] = kept
  return found
}

/** Rows that do anything within the view, in their order. */
export const rowsInView = ({ rows }: RequestOrder, { begin, end }: RequestIndex, view: Viewport): Uint32Array => {
  const found = new Uint32Array(rows.length)
  let count = 0
  for (let i = 0; i < rows.length; i++) {
    const row = rows[i]!
    if (begin[row]! < view.to && end[row]! > view.from) found[count++] = row
  }
  return found.subarray(0, count)
}
