import type { Distribution } from "../metrics/Distribution.ts"
import type { Summary } from "../metrics/Summary.ts"

/** A figure of a run that comparisons and charts speak of. */
export interface Measure {
  readonly label: string
  readonly of: (summary: Summary) => number
  readonly higherIsBetter: boolean
}

const measure = (label: string, of: Measure["of"], higherIsBetter = false): Measure => ({ label, of, higherIsBetter })

/** NaN where no request was measured: 0 would look like a good latency. */
const latency = (values: Distribution, of: "mean" | "p50" | "p99"): number => (values.n === 0 ? Number.NaN : values[of])

export const measures = {
  ttftMean: measure("TTFT mean, ms", (summary) => latency(summary.ttft, "mean")),
  ttftP50: measure("TTFT P50, ms", (summary) => latency(summary.ttft, "p50")),
  ttftP99: measure("TTFT P99, ms", (summary) => latency(summary.ttft, "p99")),
  tpotP50: measure("TPOT P50, ms", (summary) => latency(summary.tpot, "p50")),
  tpotP99: measure("TPOT P99, ms", (summary) => latency(summary.tpot, "p99")),
  maxItlP99: measure("longest gap P99, ms", (summary) => latency(summary.maxItl, "p99")),
  e2eP50: measure("E2EL P50, ms", (summary) => latency(summary.e2e, "p50")),
  goodput: measure("goodput, req/s", (summary) => summary.goodput, true),
  attainment: measure("SLO met, share", (summary) => summary.attainment, true),
  throughput: measure("output tok/s", (summary) => summary.outputTokensPerSecond, true),
  inputThroughput: measure("input tok/s", (summary) => summary.inputTokensPerSecond, true),
  rejected: measure("rejected, share", ({ rejected, tooLong, offered }) => (rejected + tooLong) / Math.max(1, offered)),
  memoryMax: measure("memory max, share", (summary) => summary.memoryMax),
} as const

export type MeasureName = keyof typeof measures

export const measureNames = Object.keys(measures) as ReadonlyArray<MeasureName>
