/**
 * The pool of slabs as physical memory: numbers at addresses, and who holds each slab.
 *
 * Nothing here knows requests. A slab is held by page tables (`holders`) and by the prefix cache (`cached`); it is free
 * when nobody holds it. Rows are written to it only while exactly one table holds it; once the cache has taken it, it is
 * read-only until it is free again.
 */
export class SlabMemory {
  /** Numbers in a slab. */
  readonly size: number
  readonly count: number
  readonly holders: Int32Array
  readonly cached: Uint8Array
  readonly readOnly: Uint8Array
  private readonly data: ReadonlyArray<Float64Array>

  constructor(count: number, size: number, from?: SlabMemory) {
    this.count = count
    this.size = size
    this.data = from?.data ?? Array.from({ length: count }, () => new Float64Array(size).fill(NaN))
    this.holders = from?.holders.slice() ?? new Int32Array(count)
    this.cached = from?.cached.slice() ?? new Uint8Array(count)
    this.readOnly = from?.readOnly.slice() ?? new Uint8Array(count)
  }

  /** The same memory with its own books: what a plan is tried on. */
  fork(): SlabMemory {
    return new SlabMemory(this.count, this.size, this)
  }

  isFree(slab: number): boolean {
    return this.holders[slab] === 0 && this.cached[slab] === 0
  }

  /** Why rows cannot be written to a slab, or null: others would read them. */
  writeFault(slab: number): string | null {
    if (this.holders[slab] !== 1) return `which ${this.holders[slab]} tables hold`
    return this.readOnly[slab] === 1 ? "which is read-only since it was cached" : null
  }

  get free(): number {
    let free = 0
    for (let slab = 0; slab < this.count; slab++) if (this.isFree(slab)) free++
    return free
  }

  hold(slab: number): void {
    this.holders[slab]!++
  }

  release(slab: number): void {
    this.holders[slab]!--
    this.forgetIfFree(slab)
  }

  retain(slab: number): void {
    this.cached[slab] = 1
    this.readOnly[slab] = 1
  }

  drop(slab: number): void {
    this.cached[slab] = 0
    this.forgetIfFree(slab)
  }

  /** What a slab held before is gone: reading it before writing it gives NaN, which no later arithmetic hides. */
  erase(slab: number): void {
    this.data[slab]!.fill(NaN)
  }

  copy(source: number, target: number): void {
    this.data[target]!.set(this.data[source]!)
  }

  /** Requires: no writeFault. */
  write(slab: number, offset: number, row: Float64Array): void {
    this.data[slab]!.set(row, offset)
  }

  read(slab: number, offset: number, length: number): Float64Array {
    return this.data[slab]!.subarray(offset, offset + length)
  }

  private forgetIfFree(slab: number): void {
    if (this.isFree(slab)) this.readOnly[slab] = 0
  }
}
