import { estimate } from "./Interval.ts"

/** Where the largest rate that passes lies: `low` 0 where some seed passes at none tried, `high` Infinity where some passes at all. */
export interface RateInterval {
  readonly low: number
  readonly high: number
}

/**
 * Of rates in ascending order, and whether each passes, seed by seed. A seed says no more than that its answer lies between the
 * largest rate that passes and the next one tried, so the interval over seeds, 95% where there are several, goes from its
 * lower end for the former to its upper end for the latter.
 */
export const rateInterval = (
  rates: ReadonlyArray<number>,
  passes: ReadonlyArray<ReadonlyArray<boolean>>,
): RateInterval => {
  const seeds = passes[0]?.length ?? 0
  const last = Array.from({ length: seeds }, (_, seed) => passes.findLastIndex((one) => one[seed]!))
  const low = estimate(last.map((at) => (at < 0 ? 0 : rates[at]!)))
  const high = estimate(last.map((at) => rates[at + 1] ?? Number.POSITIVE_INFINITY))
  return {
    low: last.some((at) => at < 0) ? 0 : Math.max(0, low.mean - (low.half || 0)),
    high: Number.isFinite(high.mean) ? high.mean + (high.half || 0) : Number.POSITIVE_INFINITY,
  }
}

export const rateIntervalText = ({ low, high }: RateInterval): string => {
  if (low === 0) return high === Number.POSITIVE_INFINITY ? "any rate" : `below ${high.toFixed(3)} req/s`
  return high === Number.POSITIVE_INFINITY
    ? `${low.toFixed(3)} req/s or more`
    : `from ${low.toFixed(3)} to ${high.toFixed(3)} req/s`
}
