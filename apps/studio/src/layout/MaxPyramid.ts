type Numbers = Uint32Array | Uint16Array | Float64Array

/** A column arranged so that the largest of any stretch is found in time that grows with the stretch's logarithm. Plain data. */
export interface MaxPyramid {
  /** `levels[l][i]`: the largest of values i · 2^l … (i + 1) · 2^l − 1. */
  readonly levels: ReadonlyArray<Numbers>
}

export const maxPyramid = (values: Numbers): MaxPyramid => {
  const levels: Array<Numbers> = [values]
  for (let below = values; below.length > 1;) {
    const above = new (values.constructor as new (length: number) => Numbers)(Math.ceil(below.length / 2))
    for (let i = 0; i < above.length; i++) {
      const [left, right] = [below[2 * i]!, below[2 * i + 1] ?? 0]
      above[i] = left > right ? left : right
    }
    levels.push(above)
    below = above
  }
  return { levels }
}

/** The largest of values `from` … `to` − 1; 0 for none. */
export const maxOf = ({ levels }: MaxPyramid, from: number, to: number): number => {
  let most = 0
  for (let level = 0, low = from, high = to; low < high; level++, low >>= 1, high >>= 1) {
    const values = levels[level]!
    if ((low & 1) === 1) most = Math.max(most, values[low++]!)
    if ((high & 1) === 1) most = Math.max(most, values[--high]!)
  }
  return most
}
