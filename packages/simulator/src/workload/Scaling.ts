import { longestTokens } from "./TraceRows.ts"
import { maxRequests, type Workload } from "./Workload.ts"

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

/** Fails with RangeError when nothing is left or a scaled value leaves its range. Works on columns, so that a trace repeated a hundred times fits in memory. */
export const scaled = (workload: Workload, scaling: Scaling): Workload => {
  const { skip, repeat } = scaling
  const end = scaling.limit > 0 ? Math.min(workload.count, skip + scaling.limit) : workload.count
  const taken = end - skip
  if (taken <= 0) {
    throw new RangeError(`${workload.name} has ${workload.count} requests; none are left after the first ${skip}`)
  }
  const count = taken * repeat
  if (count > maxRequests) {
    throw new RangeError(
      `workload.repeat ${repeat}: ${taken} requests make ${count}; at most ${maxRequests} are simulated`,
    )
  }
  const { arrivalMicros } = workload
  const origin = arrivalMicros[skip]!
  const span = arrivalMicros[end - 1]! - origin + Math.ceil((arrivalMicros[end - 1]! - origin) / Math.max(1, taken - 1))
  const source = (row: number) => skip + (row % taken)
  const round = (row: number) => Math.floor(row / taken)
  const ints = (value: (r: number, row: number) => number) =>
    Int32Array.from({ length: count }, (_, row) => value(source(row), row))
  const micros = (value: (r: number, row: number) => number) =>
    Float64Array.from({ length: count }, (_, row) => value(source(row), row))

  const most = scaling.maxPromptTokens > 0 ? scaling.maxPromptTokens : Number.MAX_SAFE_INTEGER
  const promptTokens = ints((r) =>
    scaledTokens("promptScale", workload.promptTokens[r]!, scaling.promptLength, most, r),
  )
  const outputTokens = ints((r) =>
    scaledTokens("outputScale", workload.outputTokens[r]!, scaling.outputLength, Number.MAX_SAFE_INTEGER, r),
  )
  const stated = (r: number, row: number) => {
    if (scaling.maxTokens !== "true-length") return scaling.maxTokens
    return workload.maxTokens[r]! < 0 ? outputTokens[row]! : workload.maxTokens[r]!
  }
  return {
    ...workload,
    count,
    assumptions: assumptions(workload, scaling, taken, promptTokens),
    arrivalMicros: micros((r, row) => {
      const time = Math.round((arrivalMicros[r]! - origin + round(row) * span) / scaling.rate)
      if (time <= maxMicros) return time
      throw new RangeError(`workload.rate ${scaling.rate}: request ${row + 1} comes after more than ten years`)
    }),
    promptTokens,
    outputTokens,
    maxTokens: ints((r, row) => Math.max(outputTokens[row]!, stated(r, row))),
    priority: ints((r) => workload.priority[r]!),
    tenant: ints((r) => workload.tenant[r]!),
    ttftSloMicros: micros((r) => workload.ttftSloMicros[r]!),
    after: ints((r, row) => (workload.after[r]! >= skip ? workload.after[r]! - skip + round(row) * taken : -1)),
    thinkMicros: micros((r) => workload.thinkMicros[r]!),
    ...scaledBlocks(workload, scaling, promptTokens, source, round),
  }
}

const maxMicros = 10 * 366 * 86_400e6

const scaledTokens = (field: string, tokens: number, factor: number, most: number, row: number): number => {
  const wanted = Math.min(most, Math.max(1, Math.round(tokens * factor)))
  if (wanted <= longestTokens) return wanted
  throw new RangeError(
    `workload.${field} ${factor}: ${tokens} tokens of request ${row + 1} become ${wanted}, at most ${longestTokens} are possible`,
  )
}

/** Blocks that the scaled prompts still fill, under names of their own in each repetition. */
const scaledBlocks = (
  workload: Workload,
  { sharedPrefixes }: Scaling,
  promptTokens: Int32Array,
  source: (row: number) => number,
  round: (row: number) => number,
): Pick<Workload, "blockStart" | "blocks" | "blockTokens"> => {
  const count = promptTokens.length
  const blockStart = new Int32Array(count + 1)
  if (!sharedPrefixes || workload.blockTokens === 0) return { blockStart, blocks: new Int32Array(), blockTokens: 0 }
  const { blockTokens } = workload
  for (let row = 0; row < count; row++) {
    const r = source(row)
    const held = workload.blockStart[r + 1]! - workload.blockStart[r]!
    blockStart[row + 1] = blockStart[row]! + Math.min(held, Math.floor(promptTokens[row]! / blockTokens))
  }
  const names = workload.blocks.reduce((highest, block) => Math.max(highest, block + 1), 0)
  const blocks = new Int32Array(blockStart[count]!)
  for (let row = 0; row < count; row++) {
    const from = workload.blockStart[source(row)]!
    const first = blockStart[row]!
    for (let i = first; i < blockStart[row + 1]!; i++)
      blocks[i] = workload.blocks[from + i - first]! + round(row) * names
  }
  return { blockStart, blocks, blockTokens }
}

const assumptions = (workload: Workload, scaling: Scaling, taken: number, promptTokens: Int32Array): Array<string> => {
  const said = [...workload.assumptions]
  if (taken < workload.count) said.push(`rows ${scaling.skip + 1} to ${scaling.skip + taken} of ${workload.count}`)
  if (scaling.repeat > 1) said.push(`repeated ${scaling.repeat} times, prefixes not shared between repetitions`)
  if (scaling.rate !== 1) said.push(`rate of arrivals × ${scaling.rate}`)
  if (scaling.promptLength !== 1) said.push(`prompt lengths × ${scaling.promptLength}`)
  if (scaling.outputLength !== 1) said.push(`output lengths × ${scaling.outputLength}`)
  const cut = promptTokens.filter((tokens) => tokens === scaling.maxPromptTokens).length
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
