/**
 * Events by (key, sequence), the lowest first: a binary heap in parallel arrays. Any number of events, a logarithm of it for
 * each.
 */
export class EventHeap {
  /** Key of the lowest event; Infinity when there is none. */
  lowest = Number.POSITIVE_INFINITY
  count = 0
  /** By place in the heap. The lowest event's are at 0. */
  keys = new Float64Array(64)
  sequences = new Float64Array(64)
  firsts = new Int32Array(64)
  seconds = new Int32Array(64)

  push(key: number, sequence: number, first: number, second: number): void {
    if (this.count === this.keys.length) this.grow()
    let at = this.count++
    while (at > 0) {
      const parent = (at - 1) >>> 1
      if (this.isBefore(parent, key, sequence)) break
      this.move(parent, at)
      at = parent
    }
    this.place(at, key, sequence, first, second)
    this.lowest = this.keys[0]!
  }

  /** Takes out the lowest event. Requires one. */
  drop(): void {
    const last = --this.count
    const key = this.keys[last]!
    const sequence = this.sequences[last]!
    let at = 0
    for (let child = 1; child < last; child = 2 * at + 1) {
      const right = child + 1
      if (right < last && this.isBefore(right, this.keys[child]!, this.sequences[child]!)) child = right
      if (!this.isBefore(child, key, sequence)) break
      this.move(child, at)
      at = child
    }
    this.place(at, key, sequence, this.firsts[last]!, this.seconds[last]!)
    this.lowest = last === 0 ? Number.POSITIVE_INFINITY : this.keys[0]!
  }

  private isBefore(at: number, key: number, sequence: number): boolean {
    const own = this.keys[at]!
    return own !== key ? own < key : this.sequences[at]! < sequence
  }

  private move(from: number, to: number): void {
    this.place(to, this.keys[from]!, this.sequences[from]!, this.firsts[from]!, this.seconds[from]!)
  }

  private place(at: number, key: number, sequence: number, first: number, second: number): void {
    this.keys[at] = key
    this.sequences[at] = sequence
    this.firsts[at] = first
    this.seconds[at] = second
  }

  private grow(): void {
    const capacity = this.keys.length * 2
    const larger = <A extends Float64Array | Int32Array>(make: new (length: number) => A, old: A): A => {
      const array = new make(capacity)
      array.set(old)
      return array
    }
    this.keys = larger(Float64Array, this.keys)
    this.sequences = larger(Float64Array, this.sequences)
    this.firsts = larger(Int32Array, this.firsts)
    this.seconds = larger(Int32Array, this.seconds)
  }
}
