/** Normal quantile of two-sided 95%. */
const z = 1.96

/** Wilson's 95% interval of a share. Requires `of` ≥ 1. */
export const wilson = (right: number, of: number): readonly [low: number, high: number] => {
  const share = right / of
  const middle = share + (z * z) / (2 * of)
  const half = z * Math.sqrt((share * (1 - share)) / of + (z * z) / (4 * of * of))
  const scale = 1 + (z * z) / of
  return [Math.max(0, (middle - half) / scale), Math.min(1, (middle + half) / scale)]
}

/**
 * McNemar's exact test of paired answers, two-sided: how likely it is that the pairs on which two variants differ divide this
 * unevenly or more where neither variant is better. 1 without any such pair.
 */
export const mcNemar = (lost: number, won: number): number => {
  const pairs = lost + won
  let term = 0.5 ** pairs
  let tail = 0
  for (let k = 0; k <= Math.min(lost, won); k++) {
    tail += term
    term *= (pairs - k) / (k + 1)
  }
  return Math.min(1, 2 * tail)
}

export const mean = (values: ReadonlyArray<number>): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length

/** Mean with the half width of its 95% interval by the normal approximation; 0 for one value. */
export const meanWithin = (values: ReadonlyArray<number>): readonly [mean: number, half: number] => {
  const middle = mean(values)
  if (values.length < 2) return [middle, 0]
  const variance = values.reduce((sum, value) => sum + (value - middle) ** 2, 0) / (values.length - 1)
  return [middle, z * Math.sqrt(variance / values.length)]
}

export const median = (values: ReadonlyArray<number>): number => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}
