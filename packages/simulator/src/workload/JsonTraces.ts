import { ceilDiv } from "@uniprefill/units/Units"
import { Random } from "../Random.ts"
import { spreadTicks } from "./Ticks.ts"
import { checkOrder, jsonLines } from "./TraceRows.ts"
import { workloadOf, type Workload, type WorkloadRow } from "./Workload.ts"

/** Mooncake: milliseconds, an id for each block of 512 prompt tokens, the last of which is usually partial. */
export const mooncakeTrace = (file: string, text: string, options: { seed: number; spread: boolean }): Workload => {
  const rows = jsonLines(file, text)
  const arrivals = rows.map((row) => row.micros("timestamp", 1000))
  checkOrder(rows, arrivals, "timestamp")
  const assumptions = ["times in milliseconds, prefix blocks of 512 tokens (the partial last block is not shared)"]
  const spread = Float64Array.from(arrivals)
  if (options.spread) {
    const tick = spreadTicks(spread, new Random(options.seed, "ticks"))
    if (tick > 0)
      assumptions.push(`arrivals logged in ticks of ${tick / 1e6} s are spread inside them (seed ${options.seed})`)
  }
  return workloadOf(
    file,
    assumptions,
    512,
    rows.map((row, i): WorkloadRow => {
      const promptTokens = row.tokens("input_length")
      const blocks = row.integers("hash_ids")
      const expected = ceilDiv(promptTokens, 512)
      if (blocks.length !== expected) {
        row.fail(`hash_ids has ${blocks.length} ids; ${promptTokens} tokens make ${expected} blocks of 512`)
      }
      return {
        arrivalMicros: spread[i]!,
        promptTokens,
        outputTokens: row.tokens("output_length"),
        blocks: fullBlocks(blocks, promptTokens, 512),
      }
    }),
  )
}

/** Bailian: seconds, 16-token blocks, and the call of a conversation that each call follows. */
export const bailianTrace = (file: string, text: string): Workload => {
  const rows = jsonLines(file, text)
  const arrivals = rows.map((row) => row.micros("timestamp", 1e6))
  checkOrder(rows, arrivals, "timestamp")
  const place = new Map(rows.map((row, i) => [row.integer("chat_id", 0, Number.MAX_SAFE_INTEGER), i]))
  return workloadOf(
    file,
    [
      "times in seconds, prefix blocks of 16 tokens",
      "a turn is submitted at its logged time, and not before the turn it follows has ended",
    ],
    16,
    rows.map((row, i): WorkloadRow => {
      const promptTokens = row.tokens("input_length")
      const parent = row.integer("parent_chat_id", -1, Number.MAX_SAFE_INTEGER)
      const after = parent < 0 ? undefined : place.get(parent)
      if (after !== undefined && after >= i) row.fail(`parent_chat_id ${parent} does not come before this row`)
      return {
        arrivalMicros: arrivals[i]!,
        promptTokens,
        outputTokens: row.tokens("output_length"),
        tenant: row.has("type") ? row.text("type") : undefined,
        after,
        blocks: fullBlocks(row.integers("hash_ids"), promptTokens, 16),
      }
    }),
  )
}

/** Arrivals in nanoseconds and ids of full 16-token prompt blocks: the workload of the recorded vLLM runs. */
export const nanosecondTrace = (file: string, text: string): Workload => {
  const rows = jsonLines(file, text)
  const arrivals = rows.map((row) => row.micros("arrival_time_ns", 0.001))
  checkOrder(rows, arrivals, "arrival_time_ns")
  return workloadOf(
    file,
    ["times in nanoseconds, prefix blocks of 16 tokens"],
    16,
    rows.map((row, i) => ({
      arrivalMicros: arrivals[i]!,
      promptTokens: row.tokens("input_length"),
      outputTokens: row.tokens("output_length"),
      blocks: row.has("hash_ids") ? row.integers("hash_ids") : undefined,
    })),
  )
}

const fullBlocks = (blocks: ReadonlyArray<number>, promptTokens: number, blockTokens: number): ReadonlyArray<number> =>
  blocks.slice(0, Math.floor(promptTokens / blockTokens))
