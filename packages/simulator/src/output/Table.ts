import type { Distribution } from "../metrics/Distribution.ts"
import { saturationText } from "../metrics/Saturation.ts"
import type { LengthBucket, Summary } from "../metrics/Summary.ts"

const width = 50

/** The result in the words and units of `vllm bench serve`, so that the two can be compared line by line; then what it does not say. */
export const benchTable = (summary: Summary): string => {
  const lines = [heading(" Serving Benchmark Result ", "=")]
  const row = (label: string, value: string) => lines.push(`${label.padEnd(width - 10)}${value.padEnd(10)}`.trimEnd())
  const saturated = saturationText(summary.saturation)
  if (saturated !== null) lines.unshift(saturated)
  row("Successful requests:", `${summary.completed}`)
  const others = [
    ["Rejected requests (queue full):", summary.rejected],
    ["Rejected requests (could never fit):", summary.tooLong],
    ["Aborted requests:", summary.aborted],
    ["Timed-out requests:", summary.timedOut],
    ["Failed requests:", summary.failed],
    ["Unfinished requests:", summary.unfinished],
  ] as const
  for (const [label, count] of others) if (count > 0) row(label, `${count}`)
  row("Benchmark duration (s):", fixed(summary.durationSeconds))
  row("Total input tokens:", `${summary.inputTokens}`)
  row("Total generated tokens:", `${summary.outputTokens}`)
  row("Request throughput (req/s):", fixed(summary.requestsPerSecond))
  row("Request goodput (req/s):", fixed(summary.goodput))
  row("Output token throughput (tok/s):", fixed(summary.outputTokensPerSecond))
  row("Total token throughput (tok/s):", fixed(summary.outputTokensPerSecond + summary.inputTokensPerSecond))
  const part = (title: string, name: string, values: Distribution) => {
    lines.push(heading(title, "-"))
    row(`Mean ${name} (ms):`, latency(values, "mean"))
    row(`Median ${name} (ms):`, latency(values, "p50"))
    row(`P90 ${name} (ms):`, latency(values, "p90"))
    row(`P95 ${name} (ms):`, latency(values, "p95"))
    row(`P99 ${name} (ms):`, latency(values, "p99"))
    row(`Max ${name} (ms):`, latency(values, "max"))
  }
  part("Time to First Token", "TTFT", summary.ttft)
  part("Time per Output Token (excl. 1st token)", "TPOT", summary.tpot)
  part("Inter-token Latency", "ITL", summary.itl)
  part("End-to-end Latency", "E2EL", summary.e2e)
  lines.push(heading(" Beyond vllm bench ", "="))
  row("Queueing delay, median (ms):", latency(summary.queueing, "p50"))
  row("Queueing delay, P99 (ms):", latency(summary.queueing, "p99"))
  row("Longest gap of a request, P99 (ms):", latency(summary.maxItl, "p99"))
  row("SLO attainment, of all offered (%):", fixed(summary.attainment * 100))
  row("Memory pool in use, mean / max (%):", `${fixed(summary.memoryMean * 100)} / ${fixed(summary.memoryMax * 100)}`)
  row("Devices computing (%):", fixed(summary.utilisation * 100))
  row("Model FLOP utilisation (%):", fixed(summary.mfu * 100))
  row("Steps outside of what was measured (%):", fixed(summary.outsideShare * 100))
  row("Preemptions:", `${summary.preemptions}`)
  if (summary.cachedTokens > 0)
    row("Prefix-cache hits (% of input):", fixed((summary.cachedTokens / summary.inputTokens) * 100))
  if (summary.keptShares.length > 0) {
    row(
      "Rows kept after each drop layer (%):",
      summary.keptShares
        .slice(1)
        .map((share) => (share * 100).toFixed(0))
        .join(" "),
    )
  }
  if (summary.lowered > 0) row("Requests served at a lower p:", `${summary.lowered}`)
  row("GPU hours:", fixed(summary.gpuHours))
  if (summary.pricePerMillionTokens > 0) {
    row("Price per 1M output tokens:", summary.pricePerMillionOutputTokens.toPrecision(3))
    row("Price per 1M tokens, input and output:", summary.pricePerMillionTokens.toPrecision(3))
  }
  row("Plan hash:", summary.hash)
  lines.push("=".repeat(width))
  return lines.join("\n")
}

/** TTFT by prompt length. */
export const lengthTable = (buckets: ReadonlyArray<LengthBucket>): string => {
  const header = ["prompt tokens", "requests", "TTFT mean", "P50", "P95", "P99 ms", "SLO met %", "kept %"]
  const rows = buckets.map((bucket) => [
    lengthLabel(bucket),
    `${bucket.offered}`,
    latency(bucket.ttft, "mean", 0),
    latency(bucket.ttft, "p50", 0),
    latency(bucket.ttft, "p95", 0),
    latency(bucket.ttft, "p99", 0),
    (bucket.attainment * 100).toFixed(1),
    Number.isNaN(bucket.kept) ? "–" : (bucket.kept * 100).toFixed(0),
  ])
  return columns([header, ...rows])
}

export const lengthLabel = ({ from, to }: LengthBucket): string => {
  const short = (tokens: number) => (tokens >= 1024 ? `${tokens / 1024}K` : `${tokens}`)
  return to >= Number.MAX_SAFE_INTEGER
    ? `≥ ${short(from)}`
    : from === 1
      ? `< ${short(to)}`
      : `${short(from)} – ${short(to)}`
}

/** Rows of text in columns: the first flush left, the others right. */
export const columns = (rows: ReadonlyArray<ReadonlyArray<string>>): string => {
  const widths = rows[0]!.map((_, c) => Math.max(...rows.map((row) => row[c]!.length)))
  return rows
    .map((row) =>
      row
        .map((cell, c) => (c === 0 ? cell.padEnd(widths[c]!) : cell.padStart(widths[c]!)))
        .join("  ")
        .trimEnd(),
    )
    .join("\n")
}

const heading = (title: string, fill: string): string => {
  const left = Math.floor((width - title.length) / 2)
  return fill.repeat(Math.max(0, left)) + title + fill.repeat(Math.max(0, width - title.length - left))
}

/** A dash where no request was measured: a latency of 0 would look like a good one. */
const latency = (values: Distribution, of: Exclude<keyof Distribution, "n">, digits = 2): string =>
  values.n === 0 ? "–" : values[of].toFixed(digits)

const fixed = (value: number): string => (Number.isFinite(value) ? value.toFixed(2) : "–")
