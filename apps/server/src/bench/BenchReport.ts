import type { BenchOutcome } from "./BenchClient.ts"
import type { BenchRun } from "./BenchRun.ts"

export type BenchMetric = "ttft" | "tpot" | "itl" | "e2el"

/** Figures of a run, with the names of `vllm bench serve`'s result file. */
export type BenchFigures = BenchCounts & {
  readonly [Figure in `${"mean" | "median" | "std" | `p${number}`}_${BenchMetric}_ms`]?: number
}

interface BenchCounts {
  readonly duration: number
  readonly completed: number
  readonly failed: number
  readonly total_input_tokens: number
  readonly total_output_tokens: number
  readonly request_throughput: number
  readonly request_goodput: number | null
  readonly output_throughput: number
  readonly total_token_throughput: number
  readonly max_output_tokens_per_s: number
  readonly max_concurrent_requests: number
}

export interface ReportOptions {
  readonly metrics: ReadonlyArray<BenchMetric>
  readonly percentiles: ReadonlyArray<number>
  /** Most that each may take, in ms, for a request to count as good. */
  readonly goodput: ReadonlyMap<BenchMetric, number>
}

/** Seconds between an answer's tokens; none for an answer of one. */
const tpotOf = ({ outputTokens, latency, ttft }: BenchOutcome): number =>
  outputTokens > 1 ? (latency - ttft) / (outputTokens - 1) : 0

const valuesOf: Record<BenchMetric, (outcomes: ReadonlyArray<BenchOutcome>) => ReadonlyArray<number>> = {
  ttft: (outcomes) => outcomes.map(({ ttft }) => ttft),
  tpot: (outcomes) => outcomes.filter(({ outputTokens }) => outputTokens > 1).map(tpotOf),
  itl: (outcomes) => outcomes.flatMap(({ itl }) => itl),
  e2el: (outcomes) => outcomes.map(({ latency }) => latency),
}

const worstOf: Record<BenchMetric, (outcome: BenchOutcome) => number> = {
  ttft: ({ ttft }) => ttft,
  tpot: tpotOf,
  itl: ({ itl }) => Math.max(0, ...itl),
  e2el: ({ latency }) => latency,
}

export const figuresOf = (run: BenchRun, { metrics, percentiles, goodput }: ReportOptions): BenchFigures => {
  const good = run.outcomes.filter(({ success }) => success)
  const duration = run.durationSeconds
  const input = sum(good.map(({ promptTokens }) => promptTokens))
  const output = sum(good.map(({ outputTokens }) => outputTokens))
  const kept = good.filter((outcome) => [...goodput].every(([metric, ms]) => worstOf[metric](outcome) * 1000 <= ms))
  const spread = Object.fromEntries(
    metrics.flatMap((metric) => {
      const sorted = valuesOf[metric](good).toSorted((a, b) => a - b)
      return [
        [`mean_${metric}_ms`, mean(sorted) * 1000],
        [`median_${metric}_ms`, percentile(sorted, 50) * 1000],
        [`std_${metric}_ms`, deviation(sorted) * 1000],
        ...percentiles.map((p) => [`p${p}_${metric}_ms`, percentile(sorted, p) * 1000] as const),
      ]
    }),
  )
  return {
    duration,
    completed: good.length,
    failed: run.outcomes.length - good.length,
    total_input_tokens: input,
    total_output_tokens: output,
    request_throughput: good.length / duration,
    request_goodput: goodput.size === 0 ? null : kept.length / duration,
    output_throughput: output / duration,
    total_token_throughput: (input + output) / duration,
    max_output_tokens_per_s: busiestSecond(good),
    max_concurrent_requests: run.peakConcurrency,
    ...spread,
  }
}

/** What is printed at the end, in the words of `vllm bench serve`. */
export const drawReport = (
  figures: BenchFigures,
  { metrics, percentiles }: ReportOptions,
  asked: { readonly rate: number; readonly maxConcurrency: number | undefined },
): string => {
  const line = (label: string, value: number | string) => `${label.padEnd(40)} ${value}`.padEnd(50)
  const decimal = (label: string, value: number) => line(label, value.toFixed(2))
  const rule = (title: string, mark: string) => {
    const left = Math.floor((50 - title.length - 2) / 2)
    return title === "" ? mark.repeat(50) : `${mark.repeat(left)} ${title} ${mark.repeat(50 - title.length - 2 - left)}`
  }
  const titles: Record<BenchMetric, readonly [title: string, short: string]> = {
    ttft: ["Time to First Token", "TTFT"],
    tpot: ["Time per Output Token (excl. 1st token)", "TPOT"],
    itl: ["Inter-token Latency", "ITL"],
    e2el: ["End-to-end Latency", "E2EL"],
  }
  const value = (name: string) => (figures as unknown as Record<string, number>)[name] ?? Number.NaN
  const spread = metrics.flatMap((metric) => {
    const [title, short] = titles[metric]
    return [
      rule(title, "-"),
      decimal(`Mean ${short} (ms):`, value(`mean_${metric}_ms`)),
      decimal(`Median ${short} (ms):`, value(`median_${metric}_ms`)),
      ...percentiles.map((p) => decimal(`P${p} ${short} (ms):`, value(`p${p}_${metric}_ms`))),
    ]
  })
  return `${[
    rule("Serving Benchmark Result", "="),
    line("Successful requests:", figures.completed),
    line("Failed requests:", figures.failed),
    ...(asked.maxConcurrency === undefined ? [] : [line("Maximum request concurrency:", asked.maxConcurrency)]),
    ...(Number.isFinite(asked.rate) ? [decimal("Request rate configured (RPS):", asked.rate)] : []),
    decimal("Benchmark duration (s):", figures.duration),
    line("Total input tokens:", figures.total_input_tokens),
    line("Total generated tokens:", figures.total_output_tokens),
    decimal("Request throughput (req/s):", figures.request_throughput),
    ...(figures.request_goodput === null ? [] : [decimal("Request goodput (req/s):", figures.request_goodput)]),
    decimal("Output token throughput (tok/s):", figures.output_throughput),
    decimal("Peak output token throughput (tok/s):", figures.max_output_tokens_per_s),
    decimal("Peak concurrent requests:", figures.max_concurrent_requests),
    decimal("Total Token throughput (tok/s):", figures.total_token_throughput),
    ...spread,
    rule("", "="),
  ].join("\n")}\n`
}

const sum = (values: ReadonlyArray<number>): number => values.reduce((total, value) => total + value, 0)

const mean = (values: ReadonlyArray<number>): number => (values.length === 0 ? 0 : sum(values) / values.length)

const deviation = (values: ReadonlyArray<number>): number => {
  const middle = mean(values)
  return Math.sqrt(mean(values.map((value) => (value - middle) ** 2)))
}

/** Of sorted values, with linear interpolation. */
export const percentile = (sorted: ReadonlyArray<number>, p: number): number => {
  if (sorted.length === 0) return 0
  const at = ((sorted.length - 1) * p) / 100
  const below = Math.floor(at)
  const above = Math.min(sorted.length - 1, below + 1)
  return sorted[below]! + (sorted[above]! - sorted[below]!) * (at - below)
}

/** Pieces of text that came in the second in which most came. */
const busiestSecond = (outcomes: ReadonlyArray<BenchOutcome>): number => {
  const perSecond = new Map<number, number>()
  let most = 0
  for (const { startedMs, ttft, itl } of outcomes) {
    let at = startedMs / 1000 + ttft
    for (const gap of [0, ...itl]) {
      at += gap
      const count = (perSecond.get(Math.floor(at)) ?? 0) + 1
      perSecond.set(Math.floor(at), count)
      most = Math.max(most, count)
    }
  }
  return most
}
