/** The slabs' content: numbers at addresses. A slab takes memory once it is written. */
export class SlabMemory {
  /** Numbers in a slab. */
  readonly size: number
  private readonly data: Array<Float64Array | null>
  /** What a slab holds that nobody has written. */
  private readonly unwritten: Float64Array

  constructor(count: number, size: number) {
    this.size = size
    this.data = Array<Float64Array | null>(count).fill(null)
    this.unwritten = new Float64Array(size).fill(NaN)
  }

  /** What a slab held before is gone: reading it before writing it gives NaN, which no later arithmetic hides. */
  erase(slab: number): void {
    this.data[slab]?.fill(NaN)
  }

  copy(source: number, target: number): void {
    const from = this.data[source] ?? null
    if (from === null) this.erase(target)
    else this.written(target).set(from)
  }

  write(slab: number, offset: number, row: Float64Array): void {
    this.written(slab).set(row, offset)
  }

  /** Not to be written to. */
  read(slab: number, offset: number, length: number): Float64Array {
    return (this.data[slab] ?? this.unwritten).subarray(offset, offset + length)
  }

  private written(slab: number): Float64Array {
    return (this.data[slab] ??= new Float64Array(this.size).fill(NaN))
  }
}
