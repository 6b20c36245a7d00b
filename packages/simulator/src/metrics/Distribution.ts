/** Statistics of a set of values: NaN, null in JSON, when there are none. */
export interface Distribution {
  readonly n: number
  readonly mean: number
  readonly std: number
  readonly p50: number
  readonly p90: number
  readonly p95: number
  readonly p99: number
  readonly max: number
}

const nothing: Distribution = { n: 0, mean: NaN, std: NaN, p50: NaN, p90: NaN, p95: NaN, p99: NaN, max: NaN }

/** Percentiles interpolate linearly between order statistics. Sorts `values`. */
export const distributionOf = (values: Float64Array): Distribution => {
  const n = values.length
  if (n === 0) return nothing
  values.sort()
  let sum = 0
  for (const value of values) sum += value
  const mean = sum / n
  let squares = 0
  for (const value of values) squares += (value - mean) * (value - mean)
  return {
    n,
    mean,
    std: Math.sqrt(squares / n),
    p50: percentile(values, 0.5),
    p90: percentile(values, 0.9),
    p95: percentile(values, 0.95),
    p99: percentile(values, 0.99),
    max: values[n - 1]!,
  }
}

/** Requires ascending values, at least one. */
export const percentile = (sorted: ArrayLike<number>, p: number): number => {
  const place = p * (sorted.length - 1)
  const below = Math.floor(place)
  const above = Math.min(below + 1, sorted.length - 1)
  return sorted[below]! + (sorted[above]! - sorted[below]!) * (place - below)
}
