import { Random } from "@uniprefill/units/Random"
import { gammaFunction, gapSampler, lengthSampler } from "@uniprefill/simulator/workload/Synthetic"
import { describe, expect, it } from "vitest"

const moments = (draw: () => number, n = 40_000) => {
  const values = Array.from({ length: n }, draw)
  const mean = values.reduce((a, b) => a + b, 0) / n
  const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / n
  return { mean, cv: Math.sqrt(variance) / mean }
}

describe("distributions have the mean and spread they state", () => {
  const random = new Random(3, "test")
  it.each([
    { arrivals: { process: "poisson", ratePerSecond: 2 }, cv: 1 },
    { arrivals: { process: "gamma", ratePerSecond: 2, cv: 3 }, cv: 3 },
    { arrivals: { process: "gamma", ratePerSecond: 2, cv: 0.5 }, cv: 0.5 },
    { arrivals: { process: "constant", ratePerSecond: 2 }, cv: 0 },
    { arrivals: { process: "weibull", ratePerSecond: 2, shape: 2 }, cv: 0.5227 },
  ] as const)("$arrivals.process gaps, cv $cv", ({ arrivals, cv }) => {
    const found = moments(gapSampler(arrivals, random), 200_000)
    expect(found.mean / 5e5).toBeCloseTo(1, cv > 2 ? 1 : 1.7)
    expect(Math.abs(found.cv - cv)).toBeLessThan(0.05 * Math.max(1, cv))
  })

  it("lengths", () => {
    const uniform = moments(lengthSampler({ kind: "uniform", low: 10, high: 30 }, random))
    expect(uniform.mean).toBeCloseTo(20, 0)
    const draw = lengthSampler({ kind: "empirical", values: [1, 100], weights: [3, 1] }, random)
    expect(moments(draw).mean / 25.75).toBeCloseTo(1, 1)
    const sorted = Array.from(
      { length: 10_001 },
      lengthSampler({ kind: "lognormal", median: 500, sigma: 1, most: 2000 }, random),
    ).sort((a, b) => a - b)
    expect(sorted[5000]! / 500).toBeCloseTo(1, 1)
    expect(sorted.at(-1)).toBe(2000)
  })
})

it("Γ at whole numbers is a factorial", () => {
  expect([1, 2, 3, 4, 5].map((n) => Number(gammaFunction(n).toFixed(6)))).toEqual([1, 1, 2, 6, 24])
})
