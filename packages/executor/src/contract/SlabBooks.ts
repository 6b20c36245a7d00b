/**
 * Who holds each slab of the pool.
 *
 * Nothing here knows requests. A slab is held by page tables (`holders`) and by the prefix cache (`cached`); it is free
 * when nobody holds it. Rows are written to it only while exactly one table holds it; once the cache has taken it, it is
 * read-only until it is free again.
 */
export class SlabBooks {
  readonly count: number
  readonly holders: Int32Array
  readonly cached: Uint8Array
  readonly readOnly: Uint8Array

  constructor(count: number) {
    this.count = count
    this.holders = new Int32Array(count)
    this.cached = new Uint8Array(count)
    this.readOnly = new Uint8Array(count)
  }

  /** Every slab is free. */
  reset(): void {
    this.holders.fill(0)
    this.cached.fill(0)
    this.readOnly.fill(0)
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

  evict(slab: number): void {
    this.cached[slab] = 0
    this.forgetIfFree(slab)
  }

  private forgetIfFree(slab: number): void {
    if (this.isFree(slab)) this.readOnly[slab] = 0
  }
}
