import { InvariantViolation } from "./InvariantViolation.ts"

/**
 * The one pool of equal slabs. A slab that is given back becomes free once no planned step can still touch it: at once
 * when the last step that did has committed, otherwise at its commit.
 */
export class SlabPool {
  readonly total: number
  private readonly stack: Int32Array
  private freeCount: number
  /** 1 while a slab is taken or waits for a step, so that a double release is found. */
  private readonly taken: Uint8Array
  private readonly pending: Array<{ readonly afterStep: number; readonly slabs: Array<number> }> = []
  private pendingCount = 0
  private committedStep = 0

  constructor(total: number) {
    this.total = total
    this.stack = new Int32Array(total)
    this.taken = new Uint8Array(total)
    for (let i = 0; i < total; i++) this.stack[i] = total - 1 - i
    this.freeCount = total
  }

  /** Slabs that can be taken now. */
  get free(): number {
    return this.freeCount
  }

  /** Slabs given back that a step in flight may still touch. */
  get draining(): number {
    return this.pendingCount
  }

  get used(): number {
    return this.total - this.freeCount
  }

  take(): number {
    if (this.freeCount === 0)
      throw new InvariantViolation("a slab is granted only when one is free", { total: this.total })
    const slab = this.stack[--this.freeCount]!
    this.taken[slab] = 1
    return slab
  }

  /** Gives a slab back; it is free once step `afterStep` has committed. */
  release(slab: number, afterStep: number): void {
    if (this.taken[slab] !== 1) throw new InvariantViolation("a slab is released once", { slab })
    if (afterStep <= this.committedStep) {
      this.taken[slab] = 0
      this.stack[this.freeCount++] = slab
      return
    }
    this.taken[slab] = 2
    this.pendingCount++
    let batch = this.pending.find((one) => one.afterStep === afterStep)
    if (batch === undefined) {
      batch = { afterStep, slabs: [] }
      this.pending.push(batch)
      this.pending.sort((a, b) => a.afterStep - b.afterStep)
    }
    batch.slabs.push(slab)
  }

  /** Frees what waited for steps up to and including `stepId`. */
  committed(stepId: number): void {
    this.committedStep = stepId
    while (this.pending.length > 0 && this.pending[0]!.afterStep <= stepId) {
      for (const slab of this.pending.shift()!.slabs) {
        this.taken[slab] = 0
        this.stack[this.freeCount++] = slab
        this.pendingCount--
      }
    }
  }
}
