/** A column arranged so that the largest of any stretch is found in time that grows with the stretch's logarithm. Plain data. */
export interface MaxPyramid {
  /** `levels[l][i]`: the largest of values i · 2^l … (i + 1) · 2^l − 1. */
  readonly levels: ReadonlyArray<Uint32Array>
}

export const maxPyramid = (values: Uint32Array): MaxPyramid => {
  const levels = [values]
  for (let below = values; below.length > 1;) {
    const pairs = below.length >>> 1
    const above = new Uint32Array(below.length - pairs)
    for (let i = 0; i < pairs; i++) {
      const left = below[2 * i]!
      const right = below[2 * i + 1]!
      above[i] = left > right ? left : right
    }
    if (above.length > pairs) above[pairs] = below[2 * pairs]!
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
