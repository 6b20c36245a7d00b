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

  constructor(tables: number, capacity = 2048) {
    this.capacity = capacity
    this.byTable = Array.from({ length: tables }, () => [])
  }

  /** When the next sample is due. */
  get nextTime(): number {
    return this.time.at(-1)! + this.interval
  }

  add(time: number, sample: OccupancySample, byTable: ReadonlyArray<number>): void {
    this.time.push(time)
    for (const name of names) this.series[name].push(sample[name])
    for (const [t, slabs] of byTable.entries()) this.byTable[t]!.push(slabs)
    if (this.time.length < this.capacity) return
    for (const column of [this.time, ...Object.values(this.series), ...this.byTable]) {
      const kept = column.filter((_, i) => i % 2 === 0)
      column.splice(0, column.length, ...kept)
    }
    this.interval *= 2
  }
}
