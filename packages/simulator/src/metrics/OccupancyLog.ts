import type { Scheduler } from "@uniprefill/scheduler/Scheduler"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { Request } from "@uniprefill/scheduler/Request"

/** An instant, all replicas together. */
export interface OccupancySample {
  /** Requests. */
  readonly waiting: number
  readonly running: number
  /** Slabs that somebody uses. */
  readonly used: number
  /** Those of cached pages among them. */
  readonly cached: number
  /** Slabs of cached pages that nobody uses: free for whoever needs them. */
  readonly idle: number
}

const names = ["waiting", "running", "used", "cached", "idle"] as const

/**
 * How full the memory was, over time. At most `capacity` samples: when they are used up every other one is dropped and the
 * interval doubles, so the log stays bounded and covers the whole run evenly.
 */
export class OccupancyLog {
  /** µs between samples. */
  interval = 250_000
  private count = 0
  /** Times, the fields of a sample in the order of their names, the tables and what is counted of tenants. Typed arrays, of which a checkpoint keeps what is new. */
  private readonly columns: ReadonlyArray<Float64Array>

  private readonly tables: number

  constructor(tables: number, tenantCounts = 0, capacity = 2048) {
    this.tables = tables
    this.columns = Array.from({ length: 1 + names.length + tables + tenantCounts }, () => new Float64Array(capacity))
  }

  /** µs. */
  get time(): Array<number> {
    return this.column(0)
  }

  get series(): { readonly [K in keyof OccupancySample]: Array<number> } {
    const [waiting, running, used, cached, idle] = names.map((_, n) => this.column(1 + n))
    return { waiting: waiting!, running: running!, used: used!, cached: cached!, idle: idle! }
  }

  /** Slabs that requests own alone, of each page table: `[table][sample]`. */
  get byTable(): Array<Array<number>> {
    return Array.from({ length: this.tables }, (_, t) => this.column(1 + names.length + t))
  }

  /** What was counted of tenants: `[count][sample]`, see `TenantQueues`. */
  get byTenant(): Array<Array<number>> {
    const first = 1 + names.length + this.tables
    return Array.from({ length: this.columns.length - first }, (_, n) => this.column(first + n))
  }

  /** When the next sample is due. */
  get nextTime(): number {
    return this.columns[0]![this.count - 1]! + this.interval
  }

  add(
    time: number,
    sample: OccupancySample,
    byTable: ReadonlyArray<number>,
    byTenant: ReadonlyArray<number> = [],
  ): void {
    const { columns } = this
    const at = this.count++
    columns[0]![at] = time
    for (let n = 0; n < names.length; n++) columns[1 + n]![at] = sample[names[n]!]
    for (let t = 0; t < byTable.length; t++) columns[1 + names.length + t]![at] = byTable[t]!
    const first = 1 + names.length + this.tables
    for (let n = 0; n < byTenant.length; n++) columns[first + n]![at] = byTenant[n]!
    if (this.count < columns[0]!.length) return
    const kept = Math.ceil(this.count / 2)
    for (const column of columns) for (let i = 0; i < kept; i++) column[i] = column[2 * i]!
    this.count = kept
    this.interval *= 2
  }

  private column(index: number): Array<number> {
    return Array.from(this.columns[index]!.subarray(0, this.count))
  }
}

/** Adds up what running requests own alone, table by table; slabs of cached pages, which others may read too, left out. */
export const addOwnedSlabs = (scheduler: Scheduler, { tables }: KvLayout, sums: Array<number>): void => {
  for (const request of scheduler.prefilling) addSlabsOf(request, tables, sums)
  for (const request of scheduler.decoding) {
    // One that decodes before its prompt's step has committed is among those in prefill.
    if (request.phase === "decode") addSlabsOf(request, tables, sums)
  }
}

const addSlabsOf = ({ drops, holdings }: Request, tables: KvLayout["tables"], sums: Array<number>): void => {
  for (let t = 0; t < tables.length; t++) {
    const { kind, segment, slabsPerPage } = tables[t]!
    const held = holdings.tables[t]!.length
    const isShared = drops ? segment === 0 : kind === "full"
    sums[t]! += isShared ? Math.max(0, held - holdings.cachedPages * slabsPerPage) : held
  }
}
