/**
 * Natural logarithm and exponential from + − × ÷ alone. The language leaves the last digits of Math.log and Math.exp to the
 * engine; drawn workloads must be equal everywhere.
 */

// A constant of the language, not computed by an engine.
const ln2 = Math.LN2

/** Relative error below 1e-15 for finite x > 0; −∞ for 0, NaN below. */
export const ln = (x: number): number => {
  if (!(x > 0)) return x === 0 ? Number.NEGATIVE_INFINITY : Number.NaN
  if (x === Number.POSITIVE_INFINITY) return x
  let mantissa = x
  let exponent = 0
  while (mantissa > 1.5) {
    mantissa /= 2
    exponent++
  }
  while (mantissa < 0.75) {
    mantissa *= 2
    exponent--
  }
  // ln m = 2·atanh((m − 1) / (m + 1)), |argument| ≤ 0.2
  const ratio = (mantissa - 1) / (mantissa + 1)
  const square = ratio * ratio
  let sum = 0
  for (let k = 23; k >= 1; k -= 2) sum = sum * square + 1 / k
  return 2 * ratio * sum + exponent * ln2
}

/** Relative error below 1e-14; 0 and ∞ where the result leaves the range of doubles. */
export const exp = (x: number): number => {
  if (x > 709.78) return Number.POSITIVE_INFINITY
  if (x < -745.13) return 0
  if (Number.isNaN(x)) return x
  const exponent = Math.round(x / ln2)
  const rest = x - exponent * ln2
  let sum = 1
  for (let k = 18; k >= 1; k--) sum = 1 + (sum * rest) / k
  let result = sum
  for (let i = 0; i < exponent; i++) result *= 2
  for (let i = 0; i > exponent; i--) result /= 2
  return result
}
