/**
 * How full the memory was, over time. At most `capacity` samples: when they are used up every other one is dropped and the
 * interval doubles, so the log stays bounded and covers the whole run evenly.
 */
export class OccupancyLog {
  /** µs between samples. */
  interval = 250_000
  readonly time: Array<number> = []
  /** Requests waiting and running. */
  readonly waiting: Array<number> = []
  readonly running: Array<number> = []
  /** Slabs in use, of all replicas. */
  readonly used: Array<number> = []
  /** Slabs of each page table, of all replicas: `[table][sample]`. */
  readonly byTable: ReadonlyArray<Array<number>>
  private readonly capacity: number

  constructor(tables: number, capacity = 2048) {
    this.capacity = capacity
    this.byTable = Array.from({ length: tables }, () => [])
  }

  add(time: number, waiting: number, running: number, used: number, byTable: ReadonlyArray<number>): void {
    this.time.push(time)
    this.waiting.push(waiting)
    this.running.push(running)
    this.used.push(used)
    for (const [t, slabs] of byTable.entries()) this.byTable[t]!.push(slabs)
    if (this.time.length < this.capacity) return
    for (const column of [this.time, this.waiting, this.running, this.used, ...this.byTable]) {
      const kept = column.filter((_, i) => i % 2 === 0)
      column.splice(0, column.length, ...kept)
    }
    this.interval *= 2
  }
}
