/** The slabs' content: numbers at addresses. */
export class SlabMemory {
  /** Numbers in a slab. */
  readonly size: number
  private readonly data: ReadonlyArray<Float64Array>

  constructor(count: number, size: number) {
    this.size = size
    this.data = Array.from({ length: count }, () => new Float64Array(size).fill(NaN))
  }

  /** What a slab held before is gone: reading it before writing it gives NaN, which no later arithmetic hides. */
  erase(slab: number): void {
    this.data[slab]!.fill(NaN)
  }

  copy(source: number, target: number): void {
    this.data[target]!.set(this.data[source]!)
  }

  write(slab: number, offset: number, row: Float64Array): void {
    this.data[slab]!.set(row, offset)
  }

  read(slab: number, offset: number, length: number): Float64Array {
    return this.data[slab]!.subarray(offset, offset + length)
  }
}
