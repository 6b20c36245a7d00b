/** The recurrent states' content. */
export class StateMemory {
  private readonly data: ReadonlyArray<Float64Array>
  private readonly width: number

  /** `width` is one layer's state; `layers` counts all layers of the model. */
  constructor(count: number, layers: number, width: number) {
    this.width = width
    this.data = Array.from({ length: count }, () => new Float64Array(layers * width).fill(NaN))
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
