import { IntList } from "./IntList.ts"
import { InvariantViolation } from "./InvariantViolation.ts"

/** Slabs that come free with a step. */
interface Draining {
  afterStep: number
  readonly slabs: IntList
}

/**
 * The one pool of equal slabs, and how many hold each: page tables, and the prefix cache once. A slab that its last holder
 * gives up becomes free once no planned step can still touch it: at once when the last step that did has committed,
 * otherwise at its commit.
 */
export class SlabPool {
  // Lists of slabs are typed arrays in page tables and plain ones in cached pages. No method takes both: loops over one kind
  // of array are what V8 makes fast.
  readonly total: number
  private readonly stack: Int32Array
  private freeCount: number
  /** Tables and the cache that hold each slab; 0 while it is free or waits for a step. */
  private readonly holders: Uint16Array
  /** Slabs that a holder gave up which is not the last: the step in flight that may touch them for it. */
  private readonly lastUse = new Map<number, number>()
  /** 1 while the cache is among the holders: the slab is read-only. */
  private readonly cached: Uint8Array
  /** Slabs that wait for steps in flight, in the order of those steps; and lists that are used again. */
  private readonly waiting: Array<Draining> = []
  private readonly spare: Array<Draining> = []
  private waitingCount = 0
  private committedStep = 0

  constructor(total: number) {
    this.total = total
    this.stack = new Int32Array(total)
    this.holders = new Uint16Array(total)
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

  /** Puts `count` free slabs, held once each, into `out` from `at` on. */
  take(out: Int32Array, at: number, count: number): void {
    const { stack, holders } = this
    if (this.freeCount < count) {
      throw new InvariantViolation("slabs are granted only when they are free", { count, free: this.freeCount })
    }
    let top = this.freeCount
    for (let i = at; i < at + count; i++) {
      const slab = stack[--top]!
      out[i] = slab
      holders[slab] = 1
    }
    this.freeCount = top
  }

  /** One more holds each of the slabs. */
  share(slabs: ReadonlyArray<number>): void {
    for (let i = 0; i < slabs.length; i++) {
      const slab = slabs[i]!
      if (this.holders[slab] === 0) throw new InvariantViolation("only a held slab is shared", { slab })
      this.holders[slab]!++
    }
  }

  /** The cache holds the slabs too. */
  retain(slabs: ReadonlyArray<number>): void {
    const { holders, cached } = this
    for (let i = 0; i < slabs.length; i++) {
      const slab = slabs[i]!
      if (cached[slab] === 1) throw new InvariantViolation("the cache holds a slab once", { slab })
      if (holders[slab] === 0) throw new InvariantViolation("only a held slab is shared", { slab })
      cached[slab] = 1
      holders[slab]!++
    }
  }

  /** The cache gives the slabs up. */
  drop(slabs: ReadonlyArray<number>): void {
    const { stack, holders, cached } = this
    for (let i = 0; i < slabs.length; i++) {
      const slab = slabs[i]!
      if (cached[slab] === 0) throw new InvariantViolation("the cache gives up what it holds", { slab })
      cached[slab] = 0
      if (--holders[slab]! === 0 && this.lastUse.size === 0) stack[this.freeCount++] = slab
      else this.releaseInFlight(slab, holders[slab]!, 0)
    }
  }

  isCached(slab: number): boolean {
    return this.cached[slab] === 1
  }

  holdersOf(slab: number): number {
    return this.holders[slab]!
  }

  /** One holder gives up slabs first … end − 1 of a list; its steps up to `afterStep` may touch them. */
  release(slabs: Int32Array, first: number, end: number, afterStep: number): void {
    if (this.lastUse.size > 0) this.releaseShared(slabs, first, end, afterStep)
    else if (afterStep <= this.committedStep) this.releaseNow(slabs, first, end)
    else this.releaseLater(slabs, first, end, afterStep)
  }

  private releaseNow(slabs: Int32Array, first: number, end: number): void {
    const { stack, holders } = this
    let top = this.freeCount
    for (let i = first; i < end; i++) {
      const slab = slabs[i]!
      const held = holders[slab]!
      if (held === 0) throw new InvariantViolation("a slab is released once", { slab })
      holders[slab] = held - 1
      if (held === 1) stack[top++] = slab
    }
    this.freeCount = top
  }

  private releaseLater(slabs: Int32Array, first: number, end: number, afterStep: number): void {
    const { holders } = this
    const drained = this.drainingAfter(afterStep)
    const before = drained.length
    let at = drained.extend(end - first)
    for (let i = first; i < end; i++) {
      const slab = slabs[i]!
      const held = holders[slab]!
      if (held === 0) throw new InvariantViolation("a slab is released once", { slab })
      holders[slab] = held - 1
      if (held === 1) drained.data[at++] = slab
      else this.lastUse.set(slab, afterStep)
    }
    drained.length = at
    this.waitingCount += at - before
  }

  private releaseShared(slabs: Int32Array, first: number, end: number, afterStep: number): void {
    const { holders } = this
    for (let i = first; i < end; i++) {
      const slab = slabs[i]!
      const held = holders[slab]!
      if (held === 0) throw new InvariantViolation("a slab is released once", { slab })
      holders[slab] = held - 1
      this.releaseInFlight(slab, held - 1, afterStep)
    }
  }

  /** Frees what waited for steps up to and including `stepId`. */
  committed(stepId: number): void {
    this.committedStep = stepId
    if (this.lastUse.size > 0) for (const [slab, step] of this.lastUse) if (step <= stepId) this.lastUse.delete(slab)
    while (this.waiting.length > 0 && this.waiting[0]!.afterStep <= stepId) {
      const drained = this.waiting.shift()!
      const { data, length } = drained.slabs
      for (let i = 0; i < length; i++) this.stack[this.freeCount + i] = data[i]!
      this.freeCount += length
      this.waitingCount -= length
      drained.slabs.clear()
      this.spare.push(drained)
    }
  }

  /** A slab given up that has other holders, or that a step in flight may touch. */
  private releaseInFlight(slab: number, left: number, afterStep: number): void {
    const last = Math.max(afterStep, this.lastUse.get(slab) ?? 0)
    if (left > 0) {
      if (last > this.committedStep) this.lastUse.set(slab, last)
      return
    }
    this.lastUse.delete(slab)
    if (last > this.committedStep) this.await(slab, last)
    else this.stack[this.freeCount++] = slab
  }

  private await(slab: number, afterStep: number): void {
    this.waitingCount++
    this.drainingAfter(afterStep).push(slab)
  }

  /** The list of slabs that come free with a step. */
  private drainingAfter(afterStep: number): IntList {
    const { waiting } = this
    for (let i = waiting.length - 1; i >= 0; i--) if (waiting[i]!.afterStep === afterStep) return waiting[i]!.slabs
    const one = this.spare.pop() ?? { afterStep, slabs: new IntList() }
    one.afterStep = afterStep
    waiting.push(one)
    // Few steps are in flight.
    waiting.sort((a, b) => a.afterStep - b.afterStep)
    return one.slabs
  }
}
