import { ceilDiv } from "@uniprefill/units/Units"
import { spreadArrivals } from "./Ticks.ts"
import { checkOrder, jsonLines, type TraceRow } from "./TraceRows.ts"
import { workloadOf, type Workload, type WorkloadRow } from "./Workload.ts"

interface Options {
  readonly seed: number
  readonly spread: boolean
  readonly blockTokens: number
}

/**
 * Mooncake: milliseconds, an id for each block of 512 prompt tokens, the last of which is usually partial. Turns of a
 * session may say after which pause (`delay`, ms) they follow the one before.
 */
export const mooncakeTrace = (file: string, text: string, options: Options): Workload => {
  const rows = jsonLines(file, text)
  const blockTokens = options.blockTokens || 512
  const { after, thinkMicros } = sessionsOf(rows)
  const arrivals = rows.map((row, i) => (after[i]! >= 0 && !row.has("timestamp") ? 0 : row.micros("timestamp", 1000)))
  const first = rows.filter((_, i) => after[i]! < 0)
  checkOrder(
    first,
    arrivals.filter((_, i) => after[i]! < 0),
    "timestamp",
  )
  const isShared = rows.some((row) => row.has("hash_ids"))
  const blocks = `prefix blocks of ${blockTokens} tokens (the partial last block is not shared)`
  const spread = Float64Array.from(arrivals)
  const assumptions = [
    `times in milliseconds, ${isShared ? blocks : "nothing said of shared prefixes"}`,
    ...(after.some((row) => row >= 0)
      ? ["a turn of a session follows the end of the one before, after its delay"]
      : []),
    ...spreadArrivals(spread, options),
  ]
  return workloadOf(
    file,
    assumptions,
    isShared ? blockTokens : 0,
    rows.map((row, i): WorkloadRow => {
      const promptTokens = row.tokens("input_length")
      return {
        arrivalMicros: spread[i]!,
        promptTokens,
        outputTokens: row.tokens("output_length"),
        blocks: row.has("hash_ids") ? sharedBlocks(row, promptTokens, blockTokens) : undefined,
        after: after[i]! < 0 ? undefined : after[i]!,
        thinkMicros: thinkMicros[i]!,
      }
    }),
  )
}

const sharedBlocks = (row: TraceRow, promptTokens: number, blockTokens: number): ReadonlyArray<number> => {
  const blocks = row.integers("hash_ids")
  const expected = ceilDiv(promptTokens, blockTokens)
  if (blocks.length !== expected) {
    const likely = Math.ceil(promptTokens / Math.max(1, blocks.length))
    row.fail(
      `hash_ids has ${blocks.length} ids; ${promptTokens} tokens make ${expected} blocks of ${blockTokens}. ` +
        `Blocks of another size are named with --block-size (here at least ${likely})`,
    )
  }
  return fullBlocks(blocks, promptTokens, blockTokens)
}

/** The row that each turn of a session follows, −1 for a first one, and the pause after that one's end. */
const sessionsOf = (rows: ReadonlyArray<TraceRow>) => {
  const last = new Map<string, number>()
  const after: Array<number> = []
  const thinkMicros: Array<number> = []
  for (const [i, row] of rows.entries()) {
    const session = row.has("session_id") ? row.text("session_id") : undefined
    const before = session === undefined || !row.has("delay") ? undefined : last.get(session)
    after.push(before ?? -1)
    thinkMicros.push(before === undefined ? 0 : row.micros("delay", 1000))
    if (session !== undefined) last.set(session, i)
  }
  return { after, thinkMicros }
}

/** Bailian: seconds, 16-token blocks, and the call of a conversation that each call follows. */
export const bailianTrace = (file: string, text: string, options: Options): Workload => {
  const rows = jsonLines(file, text)
  const blockTokens = options.blockTokens || 16
  const arrivals = rows.map((row) => row.micros("timestamp", 1e6))
  checkOrder(rows, arrivals, "timestamp")
  const spread = Float64Array.from(arrivals)
  const spreads = spreadArrivals(spread, options)
  const place = new Map(rows.map((row, i) => [row.integer("chat_id", 0, Number.MAX_SAFE_INTEGER), i]))
  return workloadOf(
    file,
    [
      `times in seconds, prefix blocks of ${blockTokens} tokens`,
      "a turn is submitted at its logged time, and not before the turn it follows has ended",
      ...spreads,
    ],
    blockTokens,
    rows.map((row, i): WorkloadRow => {
      const promptTokens = row.tokens("input_length")
      const parent = row.integer("parent_chat_id", -1, Number.MAX_SAFE_INTEGER)
      const after = parent < 0 ? undefined : place.get(parent)
      if (after !== undefined && after >= i) row.fail(`parent_chat_id ${parent} does not come before this row`)
      return {
        arrivalMicros: spread[i]!,
        promptTokens,
        outputTokens: row.tokens("output_length"),
        tenant: row.has("type") ? row.text("type") : undefined,
        after,
        blocks: fullBlocks(row.integers("hash_ids"), promptTokens, blockTokens),
      }
    }),
  )
}

/** Arrivals in nanoseconds and ids of full 16-token prompt blocks: the workload of the recorded vLLM runs. */
export const nanosecondTrace = (file: string, text: string, options: Options): Workload => {
  const rows = jsonLines(file, text)
  const blockTokens = options.blockTokens || 16
  const arrivals = rows.map((row) => row.micros("arrival_time_ns", 0.001))
  checkOrder(rows, arrivals, "arrival_time_ns")
  return workloadOf(
    file,
    [`times in nanoseconds, prefix blocks of ${blockTokens} tokens`],
    blockTokens,
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
