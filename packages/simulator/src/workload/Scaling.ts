import { rowOf, workloadOf, type Workload, type WorkloadRow } from "./Workload.ts"

/** Changes to a workload, applied in the order of the fields. */
export interface Scaling {
  /** The first row taken, counted from 0. */
  readonly skip: number
  /** Rows taken; 0 for all. */
  readonly limit: number
  /** The rows one after the other this often, each time with prefix blocks of its own. */
  readonly repeat: number
  /** Factor on the rate of arrivals: 2 halves every gap. */
  readonly rate: number
  readonly promptLength: number
  readonly outputLength: number
  /** Longest prompt; longer ones are cut. 0 for no limit. */
  readonly maxPromptTokens: number
  /** What requests state as `max_tokens`: the true length, or this many tokens (or the true length where that is more). */
  readonly maxTokens: "true-length" | number
  readonly sharedPrefixes: boolean
}

export const unscaled: Scaling = {
  skip: 0,
  limit: 0,
  repeat: 1,
  rate: 1,
  promptLength: 1,
  outputLength: 1,
  maxPromptTokens: 0,
  maxTokens: "true-length",
  sharedPrefixes: true,
}

/** Fails with RangeError when nothing is left. */
export const scaled = (workload: Workload, scaling: Scaling): Workload => {
  const end = scaling.limit > 0 ? Math.min(workload.count, scaling.skip + scaling.limit) : workload.count
  const taken = end - scaling.skip
  if (taken <= 0) {
    throw new RangeError(
      `${workload.name} has ${workload.count} requests; none are left after the first ${scaling.skip}`,
    )
  }
  const origin = workload.arrivalMicros[scaling.skip]!
  const lastArrival = workload.arrivalMicros[end - 1]!
  const span = lastArrival - origin + Math.ceil((lastArrival - origin) / Math.max(1, taken - 1))
  let blockIds = 0
  for (const block of workload.blocks) blockIds = Math.max(blockIds, block + 1)
  const rows: Array<WorkloadRow> = []
  for (let round = 0; round < scaling.repeat; round++) {
    for (let r = scaling.skip; r < end; r++) rows.push(scaledRow(workload, r, scaling, round, origin, span, blockIds))
  }
  return workloadOf(
    workload.name,
    assumptions(workload, scaling, taken, rows),
    scaling.sharedPrefixes ? workload.blockTokens : 0,
    rows,
  )
}

const scaledRow = (
  workload: Workload,
  r: number,
  scaling: Scaling,
  round: number,
  origin: number,
  span: number,
  blockIds: number,
): WorkloadRow => {
  const row = rowOf(workload, r)
  const most = scaling.maxPromptTokens > 0 ? scaling.maxPromptTokens : Number.MAX_SAFE_INTEGER
  const promptTokens = Math.min(most, Math.max(1, Math.round(row.promptTokens * scaling.promptLength)))
  const outputTokens = Math.max(1, Math.round(row.outputTokens * scaling.outputLength))
  const wanted = scaling.maxTokens === "true-length" ? (row.maxTokens ?? outputTokens) : scaling.maxTokens
  const after = row.after ?? -1
  const blocks = scaling.sharedPrefixes ? (row.blocks ?? []) : []
  const full = workload.blockTokens > 0 ? Math.floor(promptTokens / workload.blockTokens) : 0
  return {
    ...row,
    arrivalMicros: Math.round((row.arrivalMicros - origin + round * span) / scaling.rate),
    promptTokens,
    outputTokens,
    maxTokens: Math.max(outputTokens, wanted),
    after: after >= scaling.skip ? after - scaling.skip + round * rowsPerRound(workload, scaling) : -1,
    blocks: round === 0 ? blocks.slice(0, full) : blocks.slice(0, full).map((block) => block + round * blockIds),
  }
}

const rowsPerRound = (workload: Workload, scaling: Scaling): number =>
  (scaling.limit > 0 ? Math.min(workload.count, scaling.skip + scaling.limit) : workload.count) - scaling.skip

const assumptions = (
  workload: Workload,
  scaling: Scaling,
  taken: number,
  rows: ReadonlyArray<WorkloadRow>,
): Array<string> => {
  const said = [...workload.assumptions]
  if (taken < workload.count) said.push(`rows ${scaling.skip + 1} to ${scaling.skip + taken} of ${workload.count}`)
  if (scaling.repeat > 1) said.push(`repeated ${scaling.repeat} times, prefixes not shared between repetitions`)
  if (scaling.rate !== 1) said.push(`rate of arrivals × ${scaling.rate}`)
  if (scaling.promptLength !== 1) said.push(`prompt lengths × ${scaling.promptLength}`)
  if (scaling.outputLength !== 1) said.push(`output lengths × ${scaling.outputLength}`)
  const cut =
    scaling.maxPromptTokens > 0 ? rows.filter((row) => row.promptTokens === scaling.maxPromptTokens).length : 0
  if (cut > 0) said.push(`${cut} prompts cut to ${scaling.maxPromptTokens} tokens`)
  if (workload.blockTokens > 0 && !scaling.sharedPrefixes) said.push("shared prefixes are not used")
  said.push(
    scaling.maxTokens === "true-length"
      ? "max_tokens states each output's true length (traces have no other)"
      : `max_tokens states ${scaling.maxTokens} tokens; outputs end at their true length`,
  )
  return said
}

/** Prompt tokens whose block was seen before, cut at full blocks: what an unbounded cache could reuse. */
export const reusableTokens = (workload: Workload): number => {
  if (workload.blockTokens === 0) return 0
  const seen = new Set<number>()
  let tokens = 0
  for (let r = 0; r < workload.count; r++) {
    let leading = true
    for (let i = workload.blockStart[r]!; i < workload.blockStart[r + 1]!; i++) {
      const block = workload.blocks[i]!
      if (leading && seen.has(block)) tokens += workload.blockTokens
      else leading = false
      seen.add(block)
    }
  }
  return tokens
}
