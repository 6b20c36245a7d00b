import { Random } from "@uniprefill/units/Random"
import { gapSampler, lengthSampler } from "./Synthetic.ts"
import { TraceError } from "./TraceError.ts"
import { jsonLines, longestTokens, type TraceRow } from "./TraceRows.ts"
import { workloadOf, type Workload, type WorkloadRow } from "./Workload.ts"

export interface ServeGenOptions {
  readonly seed: number
  /** The part of the recorded days that is sampled, in seconds from their start. */
  readonly fromSecond: number
  readonly seconds: number
  /** At most this many requests. */
  readonly requests: number
}

const windowSeconds = 600

interface LengthWindow {
  readonly start: number
  readonly prompt: () => number
  readonly output: () => number
}

/**
 * Samples requests from per-client statistics of production traffic: one JSON object a client with `arrival_windows`
 * (start, rate, cv, family, two parameters) and `length_windows` (histograms of tokens). A client without lengths, and a
 * window without traffic, gives no requests.
 */
export const serveGenWorkload = (file: string, text: string, options: ServeGenOptions): Workload => {
  const rows: Array<WorkloadRow> = []
  const clients = jsonLines(file, text)
  let without = 0
  for (const client of clients) {
    const id = client.integer("client", 0, 1_000_000)
    const random = new Random(options.seed, `servegen-${id}`)
    const lengths = lengthWindows(client, random)
    if (lengths.length === 0) {
      without++
      continue
    }
    for (const row of clientRows(client, id, lengths, random, options)) {
      rows.push(row)
      if (rows.length > options.requests * 4 + 100_000) break
    }
  }
  if (rows.length === 0)
    throw new TraceError(
      file,
      0,
      `no requests between seconds ${options.fromSecond} and ${options.fromSecond + options.seconds}`,
    )
  rows.sort((a, b) => a.arrivalMicros - b.arrivalMicros || (a.tenant! < b.tenant! ? -1 : 1))
  const assumptions = [
    `sampled from the statistics of ${clients.length - without} clients, seconds ${options.fromSecond} to ${options.fromSecond + options.seconds} (seed ${options.seed})`,
    "says nothing of shared prefixes",
  ]
  if (without > 0) assumptions.push(`${without} clients have no lengths and are left out`)
  return workloadOf(file, assumptions, 0, rows.slice(0, options.requests))
}

function* clientRows(
  client: TraceRow,
  id: number,
  lengths: ReadonlyArray<LengthWindow>,
  random: Random,
  options: ServeGenOptions,
): Generator<WorkloadRow> {
  const end = options.fromSecond + options.seconds
  for (const window of windowsOf(client)) {
    if (window.rate <= 0 || window.start + windowSeconds <= options.fromSecond || window.start >= end) continue
    const gap =
      window.family === "Weibull" && window.shape > 0
        ? gapSampler({ process: "weibull", ratePerSecond: window.rate, shape: window.shape }, random)
        : gapSampler({ process: "gamma", ratePerSecond: window.rate, cv: window.cv > 0 ? window.cv : 1 }, random)
    let at = window.start * 1e6
    for (;;) {
      at += gap()
      if (at >= (window.start + windowSeconds) * 1e6) break
      if (at < options.fromSecond * 1e6 || at >= end * 1e6) continue
      const draw = lengths.findLast((one) => one.start <= window.start) ?? lengths[0]!
      yield {
        arrivalMicros: Math.round(at - options.fromSecond * 1e6),
        promptTokens: Math.max(1, draw.prompt()),
        outputTokens: Math.max(1, draw.output()),
        tenant: `client-${id}`,
      }
    }
  }
}

/** `[start_s, rate, cv, family, first parameter, second parameter]`; the first parameter is the shape. */
const windowsOf = (
  client: TraceRow,
): Array<{ start: number; rate: number; cv: number; family: string; shape: number }> => {
  const windows = client.value("arrival_windows")
  if (!Array.isArray(windows)) return client.fail("arrival_windows is not a list")
  return windows.map((window: unknown, i) => {
    if (!Array.isArray(window) || typeof window[0] !== "number" || typeof window[1] !== "number") {
      return client.fail(`arrival_windows[${i}] is not [start, rate, cv, family, …]`)
    }
    const number = (value: unknown) => (typeof value === "number" ? value : 0)
    return {
      start: window[0],
      rate: window[1],
      cv: number(window[2]),
      family: String(window[3]),
      shape: number(window[4]),
    }
  })
}

const lengthWindows = (client: TraceRow, random: Random): Array<LengthWindow> => {
  const windows = client.value("length_windows")
  if (windows === null || windows === undefined) return []
  if (typeof windows !== "object") return client.fail("length_windows is not an object")
  const found: Array<LengthWindow> = []
  for (const [start, fields] of Object.entries(windows)) {
    const sampler = (field: string) => {
      const histogram = (fields as Record<string, unknown> | null)?.[field]
      if (!Array.isArray(histogram) || histogram.length === 0) return null
      const pairs = histogram as ReadonlyArray<readonly [number, number]>
      if (pairs.some((pair) => !(pair[0] >= 0 && pair[0] <= longestTokens && pair[1] >= 0))) {
        return client.fail(`length_windows.${start}.${field} has a pair that is not [tokens, probability]`)
      }
      const values = pairs.map((pair) => Math.round(pair[0]))
      return lengthSampler({ kind: "empirical", values, weights: pairs.map((pair) => pair[1]) }, random)
    }
    const prompt = sampler("input_tokens")
    const output = sampler("output_tokens")
    if (prompt !== null && output !== null) found.push({ start: Number(start), prompt, output })
  }
  return found.sort((a, b) => a.start - b.start)
}
