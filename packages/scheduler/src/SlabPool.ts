import { IntList } from "./IntList.ts"
import { InvariantViolation } from "./InvariantViolation.ts"

/** Slabs that come free with a step. */
interface Draining {
  afterStep: number
  readonly slabs: IntList
}

/**
 * The one pool of equal slabs, and who holds each beside one: tables of answers to one prompt. A slab that its last holder
 * gives up becomes free once no planned step can still touch it: at once when the last step that did has committed,
 * otherwise at its commit.
 *
 * Most slabs have one table from grant to release, or one page of the prefix cache after that. They have no entry in the books,
 * and are given back as a run: what is given back twice is found when there are more slabs free than there are, or by
 * `checkIntegrity`. What the cache has is not given back by tables that have it too.
 */
export class SlabPool {
  readonly total: number
  private readonly stack: Int32Array
  private freeCount: number
  /** Tables that hold a slab beyond the first one; 0 for a free slab, and for one that waits for a step. */
  private readonly others: Uint16Array
  /** Slabs that a holder gave up which is not the last: the step in flight that may touch them for it. */
  private readonly lastUse = new Map<number, number>()
  /** Slabs that wait for steps in flight, in the order of those steps; and lists that are used again. */
  private readonly waiting: Array<Draining> = []
  private readonly spare: Array<Draining> = []
  private waitingCount = 0
  private committedStep = 0

  constructor(total: number) {
    this.total = total
    this.stack = new Int32Array(total)
    this.others = new Uint16Array(total)
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
    const { stack } = this
    if (this.freeCount < count) {
      throw new InvariantViolation("slabs are granted only when they are free", { count, free: this.freeCount })
    }
    let top = this.freeCount
    for (let i = at; i < at + count; i++) out[i] = stack[--top]!
    this.freeCount = top
  }

  /** One more table holds each of slabs first … end − 1 of a list. Requires that one does. */
  share(slabs: Int32Array, first: number, end: number): void {
    for (let i = first; i < end; i++) this.others[slabs[i]!]!++
  }

  /** Tables that hold a slab beyond the first one. */
  othersOf(slab: number): number {
    return this.others[slab]!
  }

  /**
   * One holder gives up slabs first … end − 1 of a list; its steps up to `afterStep` may touch them. Those from number `own` on
   * have no other holder.
   */
  release(slabs: Int32Array, first: number, end: number, afterStep: number, own = end): void {
    // A step of one that held such a slab before may still touch it: then every slab is looked up, whoever had it.
    if (this.lastUse.size > 0) this.releaseShared(slabs, first, end, afterStep)
    else {
      const from = Math.max(first, Math.min(own, end))
      if (first < from) {
        if (afterStep <= this.committedStep) this.releaseNow(slabs, first, from)
        else this.releaseLater(slabs, first, from, afterStep)
      }
      if (from < end) this.releaseOwn(slabs, from, end, afterStep)
    }
    if (this.freeCount + this.waitingCount > this.total) {
      const { free, draining, total } = this
      throw new InvariantViolation("a slab is released once", { free, draining, total })
    }
  }

  /** Nobody else can hold them, so nobody looks: a copy of the list. */
  private releaseOwn(slabs: Int32Array, first: number, end: number, afterStep: number): void {
    const count = end - first
    if (afterStep <= this.committedStep) {
      copyRun(slabs, first, end, this.stack, this.freeCount)
      this.freeCount += count
      return
    }
    const drained = this.drainingAfter(afterStep)
    const at = drained.extend(count)
    copyRun(slabs, first, end, drained.data, at)
    this.waitingCount += count
  }

  private releaseNow(slabs: Int32Array, first: number, end: number): void {
    const { stack, others } = this
    let top = this.freeCount
    for (let i = first; i < end; i++) {
      const slab = slabs[i]!
      const held = others[slab]!
      if (held === 0) stack[top++] = slab
      else others[slab] = held - 1
    }
    this.freeCount = top
  }

  private releaseLater(slabs: Int32Array, first: number, end: number, afterStep: number): void {
    const { others } = this
    const drained = this.drainingAfter(afterStep)
    const before = drained.length
    let at = drained.extend(end - first)
    for (let i = first; i < end; i++) {
      const slab = slabs[i]!
      const held = others[slab]!
      if (held === 0) {
        drained.data[at++] = slab
        continue
      }
      others[slab] = held - 1
      this.lastUse.set(slab, afterStep)
    }
    drained.length = at
    this.waitingCount += at - before
  }

  private releaseShared(slabs: Int32Array, first: number, end: number, afterStep: number): void {
    const { others } = this
    for (let i = first; i < end; i++) {
      const slab = slabs[i]!
      const held = others[slab]!
      if (held > 0) others[slab] = held - 1
      this.releaseInFlight(slab, held, afterStep)
    }
  }

  /** Frees what waited for steps up to and including `stepId`. */
  committed(stepId: number): void {
    this.committedStep = stepId
    if (this.lastUse.size > 0) for (const [slab, step] of this.lastUse) if (step <= stepId) this.lastUse.delete(slab)
    const { waiting } = this
    let drained = 0
    for (; drained < waiting.length && waiting[drained]!.afterStep <= stepId; drained++) {
      const one = waiting[drained]!
      const { data, length } = one.slabs
      copyRun(data, 0, length, this.stack, this.freeCount)
      this.freeCount += length
      this.waitingCount -= length
      one.slabs.clear()
      this.spare.push(one)
    }
    if (drained === 0) return
    for (let i = drained; i < waiting.length; i++) waiting[i - drained] = waiting[i]!
    while (drained-- > 0) waiting.pop()
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
    let place = waiting.length
    // Few steps are in flight, and most slabs wait for the newest.
    while (place > 0 && waiting[place - 1]!.afterStep >= afterStep) place--
    if (place < waiting.length && waiting[place]!.afterStep === afterStep) return waiting[place]!.slabs
    const one = this.spare.pop() ?? { afterStep, slabs: new IntList() }
    one.afterStep = afterStep
    waiting.push(one)
    for (let i = waiting.length - 1; i > place; i--) waiting[i] = waiting[i - 1]!
    waiting[place] = one
    return one.slabs
  }
}

/** Calls cost more than a loop where there are few. */
const copyRun = (from: Int32Array, first: number, end: number, to: Int32Array, at: number): void => {
  if (end - first > 64) to.set(from.subarray(first, end), at)
  else for (let i = first; i < end; i++) to[at + i - first] = from[i]!
}
