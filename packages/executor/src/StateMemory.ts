/**
 * Slots of recurrent state: one holds every recurrent layer's state of a request, or a snapshot of it, and how many rows of
 * each segment it has absorbed.
 */
export class StateMemory {
  readonly count: number
  /** The slot whose running state it is, or −1. */
  readonly owner: Int32Array
  /** 1 while it holds a snapshot. */
  readonly kept: Uint8Array
  /** Rows absorbed, [state slots][segments]. */
  readonly absorbed: ReadonlyArray<Array<number>>
  private readonly data: ReadonlyArray<Float64Array>
  private readonly width: number

  /** `width` is one layer's state; `layers` counts all layers of the model. */
  constructor(count: number, layers: number, width: number, segments: number, from?: StateMemory) {
    this.count = count
    this.width = width
    this.owner = from?.owner.slice() ?? new Int32Array(count).fill(-1)
    this.kept = from?.kept.slice() ?? new Uint8Array(count)
    this.absorbed =
      from?.absorbed.map((rows) => rows.slice()) ?? Array.from({ length: count }, () => Array(segments).fill(0))
    this.data = from?.data ?? Array.from({ length: count }, () => new Float64Array(layers * width).fill(NaN))
  }

  fork(): StateMemory {
    return new StateMemory(this.count, 0, this.width, 0, this)
  }

  bind(stateSlot: number, slot: number): void {
    this.owner[stateSlot] = slot
    this.kept[stateSlot] = 0
    this.absorbed[stateSlot]!.fill(0)
  }

  unbind(stateSlot: number): void {
    this.owner[stateSlot] = -1
  }

  /** Books of a snapshot of `source` in `target`. */
  keep(source: number, target: number): void {
    this.kept[target] = 1
    this.resume(source, target)
  }

  /** Books of `target` going on from `source`. */
  resume(source: number, target: number): void {
    for (const [segment, rows] of this.absorbed[source]!.entries()) this.absorbed[target]![segment] = rows
  }

  erase(stateSlot: number): void {
    this.data[stateSlot]!.fill(0)
  }

  copy(source: number, target: number): void {
    this.data[target]!.set(this.data[source]!)
  }

  /** The state of one layer, to be read and changed in place. */
  of(stateSlot: number, layer: number): Float64Array {
    return this.data[stateSlot]!.subarray(layer * this.width, (layer + 1) * this.width)
  }
}
