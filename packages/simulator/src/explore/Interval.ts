/** Mean of a few values and the half-width of its 95% confidence interval; the half-width of one value is NaN. */
export interface Estimate {
  readonly mean: number
  readonly half: number
  readonly n: number
}

/** 97.5% points of Student's t for 1 … 30 degrees of freedom; beyond, that of the normal distribution. */
const studentT = [
  12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145, 2.131, 2.12, 2.11,
  2.101, 2.093, 2.086, 2.08, 2.074, 2.069, 2.064, 2.06, 2.056, 2.052, 2.048, 2.045, 2.042,
]

export const estimate = (values: ReadonlyArray<number>): Estimate => {
  const n = values.length
  const mean = values.reduce((sum, value) => sum + value, 0) / n
  if (n < 2) return { mean, half: Number.NaN, n }
  const squares = values.reduce((sum, value) => sum + (value - mean) * (value - mean), 0)
  return { mean, half: ((studentT[n - 2] ?? 1.96) * Math.sqrt(squares / (n - 1))) / Math.sqrt(n), n }
}

/** Of the differences between paired values: what common random numbers are for. */
export const pairedDifference = (values: ReadonlyArray<number>, base: ReadonlyArray<number>): Estimate =>
  estimate(values.map((value, i) => value - base[i]!))

/** A dash where there is no value. */
export const estimateText = ({ mean, half }: Estimate, digits = 1): string =>
  Number.isNaN(mean)
    ? "–"
    : Number.isNaN(half)
      ? fixed(mean, digits)
      : `${fixed(mean, digits)} ± ${half.toFixed(digits)}`

/** Zero has no sign. */
const fixed = (value: number, digits: number): string => value.toFixed(digits).replace(/^-(?=[0.]*$)/, "")
