import { azureTrace, burstGptTrace, plainTrace } from "./CsvTraces.ts"
import { bailianTrace, mooncakeTrace, nanosecondTrace } from "./JsonTraces.ts"
import { TraceError } from "./TraceError.ts"
import type { Workload } from "./Workload.ts"

export const traceFormats = ["mooncake", "bailian", "nanoseconds", "azure", "burstgpt", "csv"] as const
export type TraceFormat = (typeof traceFormats)[number]

export interface TraceOptions {
  readonly format: TraceFormat | "auto"
  /** Seeds the spread of ticks. */
  readonly seed: number
  /** Whether arrivals on coarse ticks are spread inside them. */
  readonly spread: boolean
  /** Tokens of a prefix block, where the format's own number does not hold; 0 for that. */
  readonly blockTokens: number
}

/** Reads a trace. Fails with TraceError naming file and line. */
export const readTrace = (file: string, content: string, options: TraceOptions): Workload => {
  const text = content.replace(/^\uFEFF/, "")
  const format = options.format === "auto" ? detectFormat(file, text) : options.format
  const workload = load(format, file, text, options)
  if (workload.count === 0) throw new TraceError(file, 0, "no requests in the trace")
  return workload
}

const load = (format: TraceFormat, file: string, text: string, options: TraceOptions): Workload => {
  switch (format) {
    case "mooncake":
      return mooncakeTrace(file, text, options)
    case "bailian":
      return bailianTrace(file, text, options)
    case "nanoseconds":
      return nanosecondTrace(file, text, options)
    case "azure":
      return azureTrace(file, text, options)
    case "burstgpt":
      return burstGptTrace(file, text, options)
    case "csv":
      return plainTrace(file, text)
  }
}

/** By the fields that the first line names. */
const detectFormat = (file: string, text: string): TraceFormat => {
  const first = text.slice(0, 65_536).trimStart().split("\n")[0]!.trim()
  const names = (field: string) => first.includes(`"${field}"`)
  if (first === "") throw new TraceError(file, 0, "the file is empty")
  if (first.startsWith("{")) {
    if (names("parent_chat_id")) return "bailian"
    if (names("arrival_time_ns")) return "nanoseconds"
    if (names("timestamp") && names("input_length")) return "mooncake"
  } else {
    const columns = first.split(",").map((column) => column.trim())
    if (columns.includes("ContextTokens")) return "azure"
    if (columns.includes("Request tokens")) return "burstgpt"
    if (columns.includes("prompt_tokens")) return "csv"
  }
  throw new TraceError(
    file,
    1,
    `not a known trace (${traceFormats.join(", ")}): ${first.slice(0, 60)}. Name the format, or convert it to a CSV with columns arrival_ms, prompt_tokens, output_tokens`,
  )
}
