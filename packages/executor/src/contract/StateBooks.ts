/**
 * Slots of recurrent state: one holds every recurrent layer's state of a request, or a snapshot of it. Whose they are, and
 * how many rows of each segment they have absorbed.
 */
export class StateBooks {
  readonly count: number
  /** The slot whose running state it is, or −1. */
  readonly owner: Int32Array
  /** 1 while it holds a snapshot. */
  readonly kept: Uint8Array
  /** Rows absorbed, [state slots][segments]. */
  readonly absorbed: ReadonlyArray<Array<number>>

  constructor(count: number, segments: number) {
    this.count = count
    this.owner = new Int32Array(count).fill(-1)
    this.kept = new Uint8Array(count)
    this.absorbed = Array.from({ length: count }, () => Array<number>(segments).fill(0))
  }

  /** Every state slot is free. */
  reset(): void {
    this.owner.fill(-1)
    this.kept.fill(0)
  }

  bind(stateSlot: number, slot: number): void {
    this.owner[stateSlot] = slot
    this.kept[stateSlot] = 0
    this.absorbed[stateSlot]!.fill(0)
  }

  unbind(stateSlot: number): void {
    this.owner[stateSlot] = -1
  }

  /** A snapshot of `source` is in `target`. */
  keep(source: number, target: number): void {
    this.kept[target] = 1
    this.resume(source, target)
  }

  /** `target` goes on from `source`. */
  resume(source: number, target: number): void {
    for (const [segment, rows] of this.absorbed[source]!.entries()) this.absorbed[target]![segment] = rows
  }
}
