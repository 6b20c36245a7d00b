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
  readonly time: Array<number> = []
  readonly series: { readonly [K in keyof OccupancySample]: Array<number> } = {
    waiting: [],
    running: [],
    used: [],
    cached: [],
    idle: [],
  }
  /** Slabs that requests own alone, of each page table: `[table][sample]`. */
  readonly byTable: ReadonlyArray<Array<number>>
  private readonly capacity: number
  private readonly columns: ReadonlyArray<Array<number>>

  constructor(tables: number, capacity = 2048) {
    this.capacity = capacity
    this.byTable = Array.from({ length: tables }, () => [])
    this.columns = [this.time, ...names.map((name) => this.series[name]), ...this.byTable]
  }

  /** When the next sample is due. */
  get nextTime(): number {
    return this.time.at(-1)! + this.interval
  }

  add(time: number, sample: OccupancySample, byTable: ReadonlyArray<number>): void {
    this.time.push(time)
    for (let n = 0; n < names.length; n++) this.series[names[n]!].push(sample[names[n]!])
    for (let t = 0; t < byTable.length; t++) this.byTable[t]!.push(byTable[t]!)
    if (this.time.length < this.capacity) return
    for (const column of this.columns) {
      const kept = Math.ceil(column.length / 2)
      for (let i = 0; i < kept; i++) column[i] = column[2 * i]!
      column.length = kept
    }
    this.interval *= 2
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
    sums[t]! += isShared ? Math.max(0, held - holdings.cached.length * slabsPerPage) : held
  }
}
