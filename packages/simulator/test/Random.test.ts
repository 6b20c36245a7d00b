import { fc, test } from "@fast-check/vitest"
import { exp, ln } from "@uniprefill/simulator/Elementary"
import { Random } from "@uniprefill/simulator/Random"
import { gammaFunction, gapSampler, lengthSampler } from "@uniprefill/simulator/workload/Synthetic"
import { describe, expect, it } from "vitest"

test.prop([fc.double({ min: 1e-300, max: 1e300, noNaN: true })])("ln agrees with the engine's logarithm", (x) => {
  expect(Math.abs(ln(x) - Math.log(x))).toBeLessThanOrEqual(1e-15 * Math.max(1, Math.abs(Math.log(x))) * 4)
})

test.prop([fc.double({ min: -700, max: 700, noNaN: true })])("exp agrees with the engine's exponential", (x) => {
  expect(Math.abs(exp(x) / Math.exp(x) - 1)).toBeLessThan(1e-13)
})

it("gives the same numbers for a seed and stream, and others for another", () => {
  const draw = (seed: number, stream: string) => {
    const random = new Random(seed, stream)
    return Array.from({ length: 4 }, () => random.word())
  }
  expect(draw(1, "a")).toEqual(draw(1, "a"))
  expect(draw(1, "a")).not.toEqual(draw(2, "a"))
  expect(draw(1, "a")).not.toEqual(draw(1, "b"))
  expect(draw(7, "arrivals")).toMatchInlineSnapshot(`
    [
      2037066118,
      3611410461,
      4187298460,
      2455823898,
    ]
  `)
})

const moments = (draw: () => number, n = 40_000) => {
  const values = Array.from({ length: n }, draw)
  const mean = values.reduce((a, b) => a + b, 0) / n
  const variance = values.reduce((a, b) => a + (b - mean) ** 2, 0) / n
  return { mean, cv: Math.sqrt(variance) / mean, sd: Math.sqrt(variance) }
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

  it("normal numbers", () => {
    const { mean, sd } = moments(() => random.normal() + 10)
    expect(mean).toBeCloseTo(10, 1)
    expect(sd).toBeCloseTo(1, 1)
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
