/** One equation of a fit: Σ terms · factors = micros. */
export interface Equation {
  readonly terms: ReadonlyArray<number>
  readonly micros: number
  /** What an error is a share of: the time of the whole step. */
  readonly whole: number
}

/** Rounds of weighing equations by how far they are off. */
const rounds = 20
/** Errors of so many times the middle one count less, by Huber's rule. */
const farOff = 1.345 / 0.6745
/** Shares of a step's time that no clock tells apart. */
const leastError = 1e-5

/**
 * Factors ≥ 0 by which the equations hold best: least squares of relative errors, in which an equation that is far off counts less. A
 * term that no equation has gets 0.
 */
export const fitFactors = (equations: ReadonlyArray<Equation>): ReadonlyArray<number> => {
  const count = equations[0]?.terms.length ?? 0
  let factors = new Array<number>(count).fill(0)
  let weights = equations.map(() => 1)
  for (let round = 0; round < rounds; round++) {
    factors = nonNegative(equations, weights)
    const errors = equations.map(({ terms, micros, whole }) => Math.abs(dot(terms, factors) - micros) / whole)
    const middle = errors.toSorted((a, b) => a - b)[errors.length >> 1] ?? 0
    const limit = Math.max(leastError, farOff * middle)
    weights = errors.map((error) => (error <= limit ? 1 : limit / error))
  }
  return factors
}

/** The active-set method of Lawson and Hanson, on normal equations whose columns have length 1. */
const nonNegative = (equations: ReadonlyArray<Equation>, weights: ReadonlyArray<number>): Array<number> => {
  const rows = equations.map(({ terms, micros, whole }, i) => {
    const weight = Math.sqrt(weights[i]!) / whole
    return { terms: terms.map((term) => term * weight), value: micros * weight }
  })
  const columns = Array.from(equations[0]?.terms ?? [], (_, c) => c)
  const lengths = columns.map((c) => Math.hypot(...rows.map(({ terms }) => terms[c]!)) || 1)
  const scaled = rows.map(({ terms }) => terms.map((term, c) => term / lengths[c]!))
  const gram = columns.map((a) => columns.map((b) => scaled.reduce((sum, terms) => sum + terms[a]! * terms[b]!, 0)))
  const right = columns.map((c) => scaled.reduce((sum, terms, i) => sum + terms[c]! * rows[i]!.value, 0))
  const tiny = 1e-12 * Math.max(1e-300, ...right.map(Math.abs))
  let used: Array<number> = []
  let found = columns.map(() => 0)
  for (let round = 0; round < 3 * columns.length; round++) {
    const gain = columns.map((c) => (used.includes(c) ? -Infinity : right[c]! - dot(gram[c]!, found)))
    const best = gain.indexOf(Math.max(...gain))
    if (best < 0 || gain[best]! <= tiny) break
    used = [...used, best]
    for (;;) {
      const solved = solve(
        used.map((a) => used.map((b) => gram[a]![b]!)),
        used.map((c) => right[c]!),
      )
      const next = columns.map((c) => (used.includes(c) ? solved[used.indexOf(c)]! : 0))
      const negative = used.filter((c) => next[c]! <= 0)
      if (negative.length === 0) {
        found = next
        break
      }
      const step = Math.min(...negative.map((c) => found[c]! / (found[c]! - next[c]!)))
      found = found.map((value, c) => value + (Number.isFinite(step) ? step : 0) * (next[c]! - value))
      used = used.filter((c) => !(negative.includes(c) && found[c]! <= 1e-12))
      if (used.length === 0) break
    }
  }
  return found.map((value, c) => Math.max(0, value) / lengths[c]!)
}

/** By elimination with pivots; columns that others stand for get 0. */
const solve = (matrix: ReadonlyArray<ReadonlyArray<number>>, right: ReadonlyArray<number>): Array<number> => {
  const rows = matrix.map((row, i) => [...row, right[i]!])
  const size = rows.length
  for (let c = 0; c < size; c++) {
    let pivot = c
    for (let r = c + 1; r < size; r++) if (Math.abs(rows[r]![c]!) > Math.abs(rows[pivot]![c]!)) pivot = r
    ;[rows[c], rows[pivot]] = [rows[pivot]!, rows[c]!]
    const own = rows[c]!
    if (Math.abs(own[c]!) < 1e-11) {
      own.fill(0)
      continue
    }
    for (let r = 0; r < size; r++) {
      if (r === c) continue
      const factor = rows[r]![c]! / own[c]!
      if (factor !== 0) for (let i = c; i <= size; i++) rows[r]![i]! -= factor * own[i]!
    }
  }
  return rows.map((row, c) => (row[c] === 0 ? 0 : row[size]! / row[c]!))
}

const dot = (a: ReadonlyArray<number>, b: ReadonlyArray<number>): number =>
  a.reduce((sum, value, i) => sum + value * b[i]!, 0)
