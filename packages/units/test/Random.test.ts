import { fc, test } from "@fast-check/vitest"
import { exp, ln } from "@uniprefill/units/Elementary"
import { Random } from "@uniprefill/units/Random"
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

/** Mean and standard deviation of 200,000 draws. */
const moments = (draw: () => number) => {
  const values = Array.from({ length: 200_000 }, draw)
  const mean = values.reduce((a, b) => a + b, 0) / values.length
  return { mean, sd: Math.sqrt(values.reduce((a, b) => a + (b - mean) ** 2, 0) / values.length) }
}

describe("draws have the mean and spread they state", () => {
  const random = new Random(3, "test")
  it.each([
    { name: "unit", draw: () => random.unit(), mean: 0.5, sd: Math.sqrt(1 / 12) },
    { name: "between", draw: () => random.between(3, 7), mean: 5, sd: Math.SQRT2 },
    { name: "exponential", draw: () => random.exponential(), mean: 1, sd: 1 },
    { name: "normal", draw: () => random.normal(), mean: 0, sd: 1 },
    { name: "gamma of shape 4", draw: () => random.gamma(4), mean: 4, sd: 2 },
    { name: "gamma of shape 1/4", draw: () => random.gamma(0.25), mean: 0.25, sd: 0.5 },
    { name: "weibull of shape 2", draw: () => random.weibull(2), mean: Math.sqrt(Math.PI) / 2, sd: 0.4633 },
  ])("$name", ({ draw, mean, sd }) => {
    const found = moments(draw)
    expect(Math.abs(found.mean - mean)).toBeLessThan(0.015 * sd)
    expect(Math.abs(found.sd / sd - 1)).toBeLessThan(0.015)
  })
})
