import { exp, ln } from "@uniprefill/units/Elementary"
import type { Random } from "@uniprefill/units/Random"

/** Times between arrivals. `cv` is their coefficient of variation: 1 is Poisson, above it is bursty. */
export type ArrivalProcess =
  | { readonly process: "poisson"; readonly ratePerSecond: number }
  | { readonly process: "gamma"; readonly ratePerSecond: number; readonly cv: number }
  | { readonly process: "weibull"; readonly ratePerSecond: number; readonly shape: number }
  | { readonly process: "constant"; readonly ratePerSecond: number }

/** Number of tokens of a prompt or an output. */
export type LengthDistribution =
  | { readonly kind: "fixed"; readonly tokens: number }
  | { readonly kind: "uniform"; readonly low: number; readonly high: number }
  /** Median and the standard deviation of the logarithm, cut at `most`. */
  | { readonly kind: "lognormal"; readonly median: number; readonly sigma: number; readonly most: number }
  | { readonly kind: "empirical"; readonly values: ArrayLike<number>; readonly weights: ArrayLike<number> | null }

/** A function that draws the time to the next arrival, in µs, not rounded. */
export const gapSampler = (arrivals: ArrivalProcess, random: Random): (() => number) => {
  const mean = 1e6 / arrivals.ratePerSecond
  switch (arrivals.process) {
    case "poisson":
      return () => mean * random.exponential()
    case "constant":
      return () => mean
    case "gamma": {
      const shape = 1 / (arrivals.cv * arrivals.cv)
      return () => (mean / shape) * random.gamma(shape)
    }
    case "weibull": {
      const scale = mean / gammaFunction(1 + 1 / arrivals.shape)
      return () => scale * random.weibull(arrivals.shape)
    }
  }
}

export const lengthSampler = (lengths: LengthDistribution, random: Random): (() => number) => {
  switch (lengths.kind) {
    case "fixed":
      return () => lengths.tokens
    case "uniform":
      return () => random.between(lengths.low, lengths.high)
    case "lognormal": {
      const mean = ln(lengths.median)
      return () => Math.min(lengths.most, Math.max(1, Math.round(exp(mean + lengths.sigma * random.normal()))))
    }
    case "empirical":
      return lengths.weights === null
        ? () => lengths.values[random.below(lengths.values.length)]!
        : weightedSampler(lengths.values, lengths.weights, random)
  }
}

const weightedSampler = (values: ArrayLike<number>, weights: ArrayLike<number>, random: Random): (() => number) => {
  const sums = new Float64Array(values.length)
  let total = 0
  for (let i = 0; i < values.length; i++) sums[i] = total += weights[i]!
  return () => {
    const point = random.unit() * total
    let low = 0
    let high = values.length - 1
    while (low < high) {
      const middle = (low + high) >>> 1
      if (sums[middle]! > point) high = middle
      else low = middle + 1
    }
    return values[low]!
  }
}

/** Γ(x) for x in [1, 100], by Lanczos' approximation (g = 5, six terms); relative error below 1e-9. */
export const gammaFunction = (x: number): number => {
  const coefficients = [
    76.18009172947146, -86.50532032941678, 24.01409824083091, -1.231739572450155, 1.208650973866179e-3,
    -5.395239384953e-6,
  ]
  let series = 1.000000000190015
  for (const [i, coefficient] of coefficients.entries()) series += coefficient / (x + i + 1)
  const base = x + 5.5
  return exp((x + 0.5) * ln(base) - base + ln((2.506628274631 * series) / x))
}
