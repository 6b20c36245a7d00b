type Numbers = Uint32Array | Uint16Array | Float64Array

/** The largest of any stretch of a column, in time that grows with its length's logarithm. */
export class MaxPyramid {
  /** `levels[l][i]`: the largest of values i · 2^l … (i + 1) · 2^l − 1. */
  private readonly levels: ReadonlyArray<Numbers>

  constructor(values: Numbers) {
    const levels: Array<Numbers> = [values]
    for (let below = values; below.length > 1;) {
      const above = new (values.constructor as new (length: number) => Numbers)(Math.ceil(below.length / 2))
      for (let i = 0; i < above.length; i++) above[i] = Math.max(below[2 * i]!, below[2 * i + 1] ?? 0)
      levels.push(above)
      below = above
    }
    this.levels = levels
  }

  /** Of values `from` … `to` − 1; 0 for none. */
  of(from: number, to: number): number {
    let most = 0
    for (let level = 0, low = from, high = to; low < high; level++, low >>= 1, high >>= 1) {
      const values = this.levels[level]!
      if ((low & 1) === 1) most = Math.max(most, values[low++]!)
      if ((high & 1) === 1) most = Math.max(most, values[--high]!)
    }
    return most
  }
}
