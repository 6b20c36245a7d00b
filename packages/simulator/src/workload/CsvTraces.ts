import { spreadArrivals } from "./Ticks.ts"
import { TraceError } from "./TraceError.ts"
import { checkOrder, csvRows, longestTokens, type TraceRow } from "./TraceRows.ts"
import { workloadOf, type Workload, type WorkloadRow } from "./Workload.ts"

interface Spread {
  readonly seed: number
  readonly spread: boolean
}

/** Azure: date and time, prompt and output tokens. */
export const azureTrace = (file: string, text: string, options: Spread): Workload => {
  const { rows } = csvRows(file, text)
  const dates = rows.map(dateMicros)
  checkOrder(rows, dates, "TIMESTAMP")
  const arrivals = Float64Array.from(dates, (date) => date - dates[0]!)
  const spreads = spreadArrivals(arrivals, options)
  return workloadOf(
    file,
    ["times are dates; the first row is at 0", "says nothing of shared prefixes", ...spreads],
    0,
    rows.map((row, i) => ({
      arrivalMicros: arrivals[i]!,
      promptTokens: row.tokens("ContextTokens"),
      outputTokens: row.tokens("GeneratedTokens"),
    })),
  )
}

/** BurstGPT: seconds. Rows without output are failures of the service, not requests to repeat. */
export const burstGptTrace = (file: string, text: string, options: Spread): Workload => {
  const { rows } = csvRows(file, text)
  const arrivals = Float64Array.from(rows, (row) => row.micros("Timestamp", 1e6))
  checkOrder(rows, [...arrivals], "Timestamp")
  const spreads = spreadArrivals(arrivals, options)
  const served: Array<WorkloadRow> = []
  for (const [i, row] of rows.entries()) {
    const outputTokens = row.integer("Response tokens", 0, longestTokens)
    if (outputTokens === 0) continue
    const tenant = row.has("Model") ? row.text("Model") : undefined
    served.push({ arrivalMicros: arrivals[i]!, promptTokens: row.tokens("Request tokens"), outputTokens, tenant })
  }
  const failed = rows.length - served.length
  const assumptions = ["times in seconds", "says nothing of shared prefixes", ...spreads]
  if (failed > 0) assumptions.push(`${failed} rows with 0 response tokens are failures and left out`)
  return workloadOf(file, assumptions, 0, served)
}

const timeColumns = { arrival_us: 1, arrival_ms: 1000, arrival_s: 1e6 } as const

/**
 * This project's own: `arrival_us`, `arrival_ms` or `arrival_s`, `prompt_tokens`, `output_tokens`, and optionally
 * `max_tokens`, `tenant`, `priority`, `ttft_slo_ms`.
 */
export const plainTrace = (file: string, text: string): Workload => {
  const { columns, rows } = csvRows(file, text)
  const known = [
    ...Object.keys(timeColumns),
    "prompt_tokens",
    "output_tokens",
    "max_tokens",
    "tenant",
    "priority",
    "ttft_slo_ms",
  ]
  for (const column of columns) {
    if (!known.includes(column))
      throw new TraceError(file, 1, `unknown column ${JSON.stringify(column)}; known: ${known.join(", ")}`)
  }
  const times = columns.filter((column) => column in timeColumns)
  const time = times[0] as keyof typeof timeColumns | undefined
  if (time === undefined || times.length > 1) {
    throw new TraceError(
      file,
      1,
      `needs one of ${Object.keys(timeColumns).join(", ")}, has ${times.join(", ") || "none"}`,
    )
  }
  const arrivals = rows.map((row) => row.micros(time, timeColumns[time]))
  checkOrder(rows, arrivals, time)
  return workloadOf(
    file,
    [`times in the unit that column ${time} names`, "says nothing of shared prefixes"],
    0,
    rows.map((row, i): WorkloadRow => {
      const outputTokens = row.tokens("output_tokens")
      return {
        arrivalMicros: arrivals[i]!,
        promptTokens: row.tokens("prompt_tokens"),
        outputTokens,
        maxTokens: row.has("max_tokens") ? row.integer("max_tokens", outputTokens, longestTokens) : undefined,
        tenant: row.has("tenant") ? row.text("tenant") : undefined,
        priority: row.has("priority") ? row.integer("priority", -1_000_000, 1_000_000) : undefined,
        ttftSloMicros: row.has("ttft_slo_ms") ? row.micros("ttft_slo_ms", 1000) : undefined,
      }
    }),
  )
}

const datePattern = /^(\d{4})-(\d\d)-(\d\d)[ T](\d\d):(\d\d):(\d\d)(?:\.(\d{1,9}))?(?:Z|[+-]00:?00)?$/

/** µs since 0000-03-01, in the proleptic Gregorian calendar. */
const dateMicros = (row: TraceRow): number => {
  const text = row.text("TIMESTAMP")
  const match = datePattern.exec(text)
  if (match === null)
    return row.fail(`TIMESTAMP is ${JSON.stringify(text)}, expected a date and time in UTC like 2023-11-16 18:17:03.97`)
  const [year, month, day, hour, minute, second] = match.slice(1, 7).map(Number) as [
    number,
    number,
    number,
    number,
    number,
    number,
  ]
  if (month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59 || second > 60) {
    return row.fail(`TIMESTAMP is ${JSON.stringify(text)}, which is no date and time`)
  }
  // Years are counted from March, so that the leap day is a year's last.
  const fromMarch = (month + 9) % 12
  const marchYear = year - (month <= 2 ? 1 : 0)
  const leaps = Math.floor(marchYear / 4) - Math.floor(marchYear / 100) + Math.floor(marchYear / 400)
  const days = 365 * marchYear + leaps + Math.floor((153 * fromMarch + 2) / 5) + day - 1
  const micros = Math.floor(Number((match[7] ?? "0").padEnd(9, "0")) / 1000)
  return ((days * 24 + hour) * 60 + minute) * 60e6 + second * 1e6 + micros
}
