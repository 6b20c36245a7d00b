/**
 * What happens next. Events are ordered by (time, class, sequence): integer µs; then by kind, the lower class first; then in
 * the order in which they were scheduled. The order is total, so a run depends on nothing else.
 *
 * A binary heap in parallel arrays; an event carries two integers whose meaning its class gives.
 */
export class EventQueue {
  /** Of the event taken last. */
  time = 0
  class = 0
  first = 0
  second = 0
  private times: Float64Array
  private classes: Uint8Array
  private sequences: Float64Array
  private firsts: Int32Array
  private seconds: Int32Array
  private count = 0
  private sequence = 0

  constructor(capacity = 1024) {
    this.times = new Float64Array(capacity)
    this.classes = new Uint8Array(capacity)
    this.sequences = new Float64Array(capacity)
    this.firsts = new Int32Array(capacity)
    this.seconds = new Int32Array(capacity)
  }

  get size(): number {
    return this.count
  }

  /** Time of the next event, or Infinity. */
  get nextTime(): number {
    return this.count === 0 ? Number.POSITIVE_INFINITY : this.times[0]!
  }

  /** Schedules an event. `time` is an integer and not before that of the event taken last; fails with RangeError otherwise. */
  push(time: number, eventClass: number, first: number, second: number): void {
    if (!Number.isSafeInteger(time) || time < this.time) {
      throw new RangeError(`an event's time is an integer of at least ${this.time} µs, got ${time}`)
    }
    if (this.count === this.times.length) this.grow()
    const sequence = this.sequence++
    let at = this.count++
    while (at > 0) {
      const parent = (at - 1) >>> 1
      if (this.isBefore(parent, time, eventClass, sequence)) break
      this.move(parent, at)
      at = parent
    }
    this.place(at, time, eventClass, sequence, first, second)
  }

  /** Takes the next event into `time`, `class`, `first`, `second`. Requires one. */
  pop(): void {
    this.time = this.times[0]!
    this.class = this.classes[0]!
    this.first = this.firsts[0]!
    this.second = this.seconds[0]!
    const last = --this.count
    if (last === 0) return
    const time = this.times[last]!
    const eventClass = this.classes[last]!
    const sequence = this.sequences[last]!
    let at = 0
    for (;;) {
      let child = 2 * at + 1
      if (child >= last) break
      const right = child + 1
      if (right < last && this.isBefore(right, this.times[child]!, this.classes[child]!, this.sequences[child]!))
        child = right
      if (!this.isBefore(child, time, eventClass, sequence)) break
      this.move(child, at)
      at = child
    }
    this.place(at, time, eventClass, sequence, this.firsts[last]!, this.seconds[last]!)
  }

  private isBefore(at: number, time: number, eventClass: number, sequence: number): boolean {
    const own = this.times[at]!
    if (own !== time) return own < time
    const ownClass = this.classes[at]!
    return ownClass !== eventClass ? ownClass < eventClass : this.sequences[at]! < sequence
  }

  private move(from: number, to: number): void {
    this.place(
      to,
      this.times[from]!,
      this.classes[from]!,
      this.sequences[from]!,
      this.firsts[from]!,
      this.seconds[from]!,
    )
  }

  private place(at: number, time: number, eventClass: number, sequence: number, first: number, second: number): void {
    this.times[at] = time
    this.classes[at] = eventClass
    this.sequences[at] = sequence
    this.firsts[at] = first
    this.seconds[at] = second
  }

  private grow(): void {
    const capacity = this.times.length * 2
    const larger = <A extends Float64Array | Int32Array | Uint8Array>(make: new (length: number) => A, old: A): A => {
      const array = new make(capacity)
      array.set(old)
      return array
    }
    this.times = larger(Float64Array, this.times)
    this.classes = larger(Uint8Array, this.classes)
    this.sequences = larger(Float64Array, this.sequences)
    this.firsts = larger(Int32Array, this.firsts)
    this.seconds = larger(Int32Array, this.seconds)
  }
}
