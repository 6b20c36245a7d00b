import { EventHeap } from "./EventHeap.ts"

/** Classes that an event may have: 0 to 7. */
const classes = 8

/** 35 years: what a key of time and class still holds exactly. */
const maxMicros = 2 ** 50

/** Events kept in order besides the heap. */
const soonCapacity = 16

/**
 * What happens next. Events are ordered by (time, class, sequence): integer µs; then by kind, the lower class first; then in
 * the order in which they were scheduled. The order is total, so a run depends on nothing else. An event carries two integers
 * whose meaning its class gives.
 *
 * Time and class make one key. The few soonest events, as the ends of the steps in flight nearly always are, stand in a
 * short list in order; the others wait in a heap, and every event in the list comes before every event in the heap.
 */
export class EventQueue {
  /** Of the event taken last. */
  time = 0
  class = 0
  first = 0
  second = 0
  /** The soonest events, the next one last. */
  private readonly soonKeys = new Float64Array(soonCapacity)
  private readonly soonSequences = new Float64Array(soonCapacity)
  private readonly soonFirsts = new Int32Array(soonCapacity)
  private readonly soonSeconds = new Int32Array(soonCapacity)
  private soon = 0
  private readonly later = new EventHeap()
  private sequence = 0

  get size(): number {
    return this.soon + this.later.count
  }

  /** Time of the next event, or Infinity. */
  get nextTime(): number {
    return Math.floor((this.soon > 0 ? this.soonKeys[this.soon - 1]! : this.later.lowest) / classes)
  }

  /**
   * Schedules an event. `time` is an integer, not before that of the event taken last and at most 2⁵⁰; fails with RangeError
   * otherwise.
   */
  push(time: number, eventClass: number, first: number, second: number): void {
    if (!(time >= this.time && time <= maxMicros && Math.floor(time) === time)) {
      throw new RangeError(`an event's time is an integer from ${this.time} to ${maxMicros} µs, got ${time}`)
    }
    const key = time * classes + eventClass
    const sequence = this.sequence++
    if (this.soon === soonCapacity) this.putOff()
    if (key >= this.later.lowest) {
      this.later.push(key, sequence, first, second)
      return
    }
    const { soonKeys } = this
    let at = this.soon++
    // Of equal keys the one scheduled first is nearer to the end.
    for (; at > 0 && soonKeys[at - 1]! <= key; at--) this.move(at - 1, at)
    soonKeys[at] = key
    this.soonSequences[at] = sequence
    this.soonFirsts[at] = first
    this.soonSeconds[at] = second
  }

  /** Takes the next event into `time`, `class`, `first`, `second`. Requires one. */
  pop(): void {
    let key: number
    if (this.soon > 0) {
      const at = --this.soon
      key = this.soonKeys[at]!
      this.first = this.soonFirsts[at]!
      this.second = this.soonSeconds[at]!
    } else {
      const { later } = this
      key = later.lowest
      this.first = later.firsts[0]!
      this.second = later.seconds[0]!
      later.drop()
    }
    this.time = Math.floor(key / classes)
    this.class = key - this.time * classes
  }

  /** Moves the later half of the full list into the heap. */
  private putOff(): void {
    const half = soonCapacity / 2
    for (let at = 0; at < half; at++) {
      this.later.push(this.soonKeys[at]!, this.soonSequences[at]!, this.soonFirsts[at]!, this.soonSeconds[at]!)
      this.move(at + half, at)
    }
    this.soon = half
  }

  private move(from: number, to: number): void {
    this.soonKeys[to] = this.soonKeys[from]!
    this.soonSequences[to] = this.soonSequences[from]!
    this.soonFirsts[to] = this.soonFirsts[from]!
    this.soonSeconds[to] = this.soonSeconds[from]!
  }
}
