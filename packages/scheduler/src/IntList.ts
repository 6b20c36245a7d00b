/**
 * A growable list of 32-bit integers: the columns of a StepPlan and a StepResult.
 *
 * `data` may be longer than `length`. Pushing reallocates only when the capacity is exceeded, so a list that is cleared
 * and refilled every step stops allocating once it has seen its largest step.
 */
export class IntList {
  data: Int32Array
  length = 0

  constructor(capacity = 16) {
    this.data = new Int32Array(capacity)
  }

  static from(values: ArrayLike<number>): IntList {
    const list = new IntList(Math.max(1, values.length))
    list.data.set(values)
    list.length = values.length
    return list
  }

  clear(): void {
    this.length = 0
  }

  push(value: number): void {
    if (this.length === this.data.length) this.grow(this.length + 1)
    this.data[this.length++] = value
  }

  push2(a: number, b: number): void {
    const at = this.length
    if (at + 2 > this.data.length) this.grow(at + 2)
    this.data[at] = a
    this.data[at + 1] = b
    this.length = at + 2
  }

  push3(a: number, b: number, c: number): void {
    const at = this.length
    if (at + 3 > this.data.length) this.grow(at + 3)
    this.data[at] = a
    this.data[at + 1] = b
    this.data[at + 2] = c
    this.length = at + 3
  }

  /** Everything that another list holds, or its first `count` integers. */
  append(other: IntList, count = other.length): void {
    const at = this.extend(count)
    for (let i = 0; i < count; i++) this.data[at + i] = other.data[i]!
  }

  pushAll(values: ArrayLike<number>, start = 0, end = values.length): void {
    const count = end - start
    if (this.length + count > this.data.length) this.grow(this.length + count)
    for (let i = start; i < end; i++) this.data[this.length++] = values[i]!
  }

  /** Integers first … end − 1 of a typed array. */
  pushRun(values: Int32Array, first: number, end: number): void {
    const at = this.extend(end - first) - first
    const { data } = this
    for (let i = first; i < end; i++) data[at + i] = values[i]!
  }

  /** Sees that `data` has room for `count` integers behind those there are. */
  makeRoom(count: number): void {
    if (this.length + count > this.data.length) this.grow(this.length + count)
  }

  /** Makes the list `count` longer and returns where the new part begins, for the caller to fill. */
  extend(count: number): number {
    const at = this.length
    if (at + count > this.data.length) this.grow(at + count)
    this.length = at + count
    return at
  }

  toArray(): Array<number> {
    return Array.from(this.data.subarray(0, this.length))
  }

  private grow(needed: number): void {
    const bigger = new Int32Array(Math.max(needed, this.data.length * 2))
    bigger.set(this.data.subarray(0, this.length))
    this.data = bigger
  }
}
