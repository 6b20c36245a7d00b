import { IntList } from "./IntList.ts"
import { InvariantViolation } from "./InvariantViolation.ts"

/**
 * The one pool of equal slabs, and how many hold each: page tables, and the prefix cache once. A slab that its last holder
 * gives up becomes free once no planned step can still touch it: at once when the last step that did has committed,
 * otherwise at its commit.
 */
export class SlabPool {
  readonly total: number
  private readonly stack: Int32Array
  private freeCount: number
  /** Tables and the cache that hold each slab; 0 while it is free or waits for a step. */
  private readonly holders: Uint16Array
  /** The last step that may touch it, as those said who gave it up. */
  private readonly lastUse: Int32Array
  /** 1 while the cache is among the holders: the slab is read-only. */
  private readonly cached: Uint8Array
  private readonly waiting: Array<{ readonly afterStep: number; readonly slabs: IntList }> = []
  private waitingCount = 0
  private committedStep = 0

  constructor(total: number) {
    this.total = total
    this.stack = new Int32Array(total)
    this.holders = new Uint16Array(total)
    this.lastUse = new Int32Array(total)
    this.cached = new Uint8Array(total)
    for (let i = 0; i < total; i++) this.stack[i] = total - 1 - i
    this.freeCount = total
  }

  /** Slabs that can be taken now. */
  get free(): number {
    return this.freeCount
  }

  /** Slabs given back that a step in flight may still touch. */
  get draining(): number {
    return this.waitingCount
  }

  get used(): number {
    return this.total - this.freeCount
  }

  /** A free slab, held once. */
  take(): number {
    if (this.freeCount === 0)
      throw new InvariantViolation("a slab is granted only when one is free", { total: this.total })
    const slab = this.stack[--this.freeCount]!
    this.holders[slab] = 1
    this.lastUse[slab] = 0
    return slab
  }

  /** One more holds the slab. */
  share(slab: number): void {
    if (this.holders[slab] === 0) throw new InvariantViolation("only a held slab is shared", { slab })
    this.holders[slab]!++
  }

  /** The cache holds the slab too. */
  retain(slab: number): void {
    if (this.isCached(slab)) throw new InvariantViolation("the cache holds a slab once", { slab })
    this.share(slab)
    this.cached[slab] = 1
  }

  /** The cache gives the slab up. */
  drop(slab: number): void {
    if (!this.isCached(slab)) throw new InvariantViolation("the cache gives up what it holds", { slab })
    this.cached[slab] = 0
    this.release(slab, 0)
  }

  isCached(slab: number): boolean {
    return this.cached[slab] === 1
  }

  holdersOf(slab: number): number {
    return this.holders[slab]!
  }

  /** One holder gives a slab up, whose steps up to `afterStep` may touch it. */
  release(slab: number, afterStep: number): void {
    const left = this.holders[slab]! - 1
    if (left < 0) throw new InvariantViolation("a slab is released once", { slab })
    this.holders[slab] = left
    if (afterStep > this.lastUse[slab]!) this.lastUse[slab] = afterStep
    if (left > 0) return
    if (this.lastUse[slab]! <= this.committedStep) this.stack[this.freeCount++] = slab
    else this.await(slab, this.lastUse[slab]!)
  }

  /** Frees what waited for steps up to and including `stepId`. */
  committed(stepId: number): void {
    this.committedStep = stepId
    while (this.waiting.length > 0 && this.waiting[0]!.afterStep <= stepId) {
      const { slabs } = this.waiting.shift()!
      for (let i = 0; i < slabs.length; i++) this.stack[this.freeCount++] = slabs.data[i]!
      this.waitingCount -= slabs.length
    }
  }

  private await(slab: number, afterStep: number): void {
    this.waitingCount++
    let batch = this.waiting.find((one) => one.afterStep === afterStep)
    if (batch === undefined) {
      batch = { afterStep, slabs: new IntList() }
      this.waiting.push(batch)
      this.waiting.sort((a, b) => a.afterStep - b.afterStep)
    }
    batch.slabs.push(slab)
  }
}
