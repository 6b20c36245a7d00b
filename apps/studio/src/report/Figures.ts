import { distributionOf, type Distribution } from "@uniprefill/simulator/metrics/Distribution"
import type { RequestColumns } from "@uniprefill/simulator/timetravel/RequestColumns"
import type { RunResult } from "../protocol/Protocol.ts"
import { short } from "../ui/Chart.tsx"

/** Latencies of completed requests, ms: of a summary where there is one, else from the columns. */
export interface Latencies {
  readonly ttft: Distribution
  readonly tpot: Distribution
  readonly e2e: Distribution
  readonly queueing: Distribution
}

const completed = 1

export const latenciesOf = ({ summary, requests }: RunResult): Latencies =>
  summary === null
    ? {
        ttft: over(requests, (row) => requests.firstToken[row]! - requests.arrival[row]!),
        tpot: over(requests, (row) =>
          requests.outputs[row]! > 1
            ? (requests.lastToken[row]! - requests.firstToken[row]!) / (requests.outputs[row]! - 1)
            : null,
        ),
        e2e: over(requests, (row) => requests.lastToken[row]! - requests.arrival[row]!),
        queueing: over(requests, (row) => requests.firstScheduled[row]! - requests.arrival[row]!),
      }
    : summary

const over = (requests: RequestColumns, value: (row: number) => number | null): Distribution => {
  const values: Array<number> = []
  for (let row = 0; row < requests.count; row++) {
    if (requests.status[row] !== completed) continue
    const one = value(row)
    if (one !== null) values.push(one / 1000)
  }
  return distributionOf(Float64Array.from(values))
}

/** A dash where no request was measured: 0 would look like a good latency. */
export const latency = (of: Distribution, at: Exclude<keyof Distribution, "n">): string =>
  of.n === 0 ? "–" : short(of[at])

/** Shares of completed requests at or below, for a chart. */
export const cdfOf = (requests: RequestColumns, value: (row: number) => number): Array<readonly [number, number]> => {
  const values: Array<number> = []
  for (let row = 0; row < requests.count; row++) if (requests.status[row] === completed) values.push(value(row) / 1000)
  const sorted = Float64Array.from(values).sort()
  const points = Math.min(160, sorted.length)
  return Array.from({ length: points }, (_, i) => {
    const at = points === 1 ? 0 : Math.round((i / (points - 1)) * (sorted.length - 1))
    return [sorted[at]!, (at + 1) / sorted.length] as const
  })
}
