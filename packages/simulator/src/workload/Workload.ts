/**
 * The requests that a simulation offers, column by column. Request r is row r; rows are in order of arrival, but for those of
 * a session that wait for another one's end.
 */
export interface Workload {
  readonly name: string
  /** What the loader assumed: units, block size, spread of ticks, scaling. One sentence each. */
  readonly assumptions: ReadonlyArray<string>
  readonly count: number
  /** Integer µs from the start. */
  readonly arrivalMicros: Float64Array
  readonly promptTokens: Int32Array
  /** True length of the output. */
  readonly outputTokens: Int32Array
  /** What the request states as its `max_tokens`; −1 for nothing. */
  readonly maxTokens: Int32Array
  /** Lower is sooner. */
  readonly priority: Int32Array
  /** Index into `tenants`. */
  readonly tenant: Int32Array
  readonly tenants: ReadonlyArray<string>
  /** Target of a policy that looks at it; 0 for none. */
  readonly ttftSloMicros: Float64Array
  /** The row whose end this one waits for, −1 for none; it is submitted `thinkMicros` after that end. */
  readonly after: Int32Array
  readonly thinkMicros: Float64Array
  /** Prefix blocks of row r are `blocks[blockStart[r] … blockStart[r + 1]]`; equal ids mean equal blocks with equal prefixes. */
  readonly blockStart: Int32Array
  readonly blocks: Int32Array
  /** Tokens of a block; 0 when the workload says nothing of shared prefixes. */
  readonly blockTokens: number
}

/** Most requests of a workload: their columns take a GB or two. */
export const maxRequests = 10_000_000

/** One row, as loaders and generators make it. */
export interface WorkloadRow {
  readonly arrivalMicros: number
  readonly promptTokens: number
  readonly outputTokens: number
  readonly maxTokens?: number | undefined
  readonly priority?: number | undefined
  readonly tenant?: string | undefined
  readonly ttftSloMicros?: number | undefined
  readonly after?: number | undefined
  readonly thinkMicros?: number | undefined
  readonly blocks?: ReadonlyArray<number> | undefined
}

/** Makes the columns. Requires rows in order of arrival. */
export const workloadOf = (
  name: string,
  assumptions: ReadonlyArray<string>,
  blockTokens: number,
  rows: ReadonlyArray<WorkloadRow>,
): Workload => {
  const tenantIndex = new Map<string, number>()
  const tenantOf = (tenant: string): number => {
    const known = tenantIndex.get(tenant)
    if (known !== undefined) return known
    tenantIndex.set(tenant, tenantIndex.size)
    return tenantIndex.size - 1
  }
  const blockStart = new Int32Array(rows.length + 1)
  for (const [i, row] of rows.entries()) blockStart[i + 1] = blockStart[i]! + (row.blocks?.length ?? 0)
  const blocks = new Int32Array(blockStart[rows.length]!)
  for (const [i, row] of rows.entries()) if (row.blocks !== undefined) blocks.set(row.blocks, blockStart[i])
  const tenant = Int32Array.from(rows, (row) => tenantOf(row.tenant ?? "default"))
  return {
    name,
    assumptions,
    count: rows.length,
    arrivalMicros: Float64Array.from(rows, (row) => row.arrivalMicros),
    promptTokens: Int32Array.from(rows, (row) => row.promptTokens),
    outputTokens: Int32Array.from(rows, (row) => row.outputTokens),
    maxTokens: Int32Array.from(rows, (row) => row.maxTokens ?? -1),
    priority: Int32Array.from(rows, (row) => row.priority ?? 0),
    tenant,
    tenants: [...tenantIndex.keys()],
    ttftSloMicros: Float64Array.from(rows, (row) => row.ttftSloMicros ?? 0),
    after: Int32Array.from(rows, (row) => row.after ?? -1),
    thinkMicros: Float64Array.from(rows, (row) => row.thinkMicros ?? 0),
    blockStart,
    blocks,
    blockTokens,
  }
}

/** Two words of 32 bits over everything that a run depends on, as 16 hexadecimal digits. */
export const workloadHash = (workload: Workload): string => {
  let a = 0x811c9dc5
  let b = 0x9e3779b9
  const mix = (value: number) => {
    a = Math.imul(a ^ value, 0x01000193)
    b = Math.imul((b << 5) ^ (b >>> 27) ^ value, 0x85ebca6b)
  }
  const mixAll = (values: Float64Array | Int32Array) => {
    mix(values.length)
    for (const value of values) {
      mix(value | 0)
      mix(Math.floor(value / 0x1_0000_0000) | 0)
    }
  }
  mixAll(workload.arrivalMicros)
  for (const column of [
    "promptTokens",
    "outputTokens",
    "maxTokens",
    "priority",
    "tenant",
    "after",
    "blockStart",
    "blocks",
  ] as const) {
    mixAll(workload[column])
  }
  mixAll(workload.ttftSloMicros)
  mixAll(workload.thinkMicros)
  return [a, b].map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("")
}
