import { fc, test } from "@fast-check/vitest"
import { describe, expect, it } from "vitest"
import { ceilDiv, gcd, pagesFor, roundDown, Rows, StepId, Tokens } from "@uniprefill/units/Units"

const whole = fc.nat(2 ** 40)
const positive = fc.integer({ min: 1, max: 2 ** 20 })

describe("branded integers", () => {
  test.prop([fc.nat(Number.MAX_SAFE_INTEGER)])("pass whole numbers from 0", (value) => {
    expect(Tokens(value)).toBe(value)
  })

  it.each([-1, 0.5, NaN, Infinity, 2 ** 53])("refuse %s, naming the unit", (value) => {
    expect(() => Rows(value)).toThrow(new RangeError(`Rows must be an integer ≥ 0, got ${value}`))
    expect(() => StepId(value)).toThrow(new RangeError(`StepId must be an integer ≥ 0, got ${value}`))
  })
})

describe("arithmetic", () => {
  test.prop([whole, positive])("ceilDiv is the least quotient that covers", (dividend, divisor) => {
    const quotient = ceilDiv(dividend, divisor)
    expect(quotient * divisor).toBeGreaterThanOrEqual(dividend)
    expect((quotient - 1) * divisor).toBeLessThan(Math.max(dividend, 1))
  })

  test.prop([whole, positive])("roundDown is the multiple at or just below", (value, step) => {
    const rounded = roundDown(value, step)
    expect(rounded % step).toBe(0)
    expect(value - rounded).toBeGreaterThanOrEqual(0)
    expect(value - rounded).toBeLessThan(step)
  })

  test.prop([positive, positive, positive])("gcd divides both, and scales with them", (a, b, scale) => {
    const divisor = gcd(a, b)
    expect([a % divisor, b % divisor]).toEqual([0, 0])
    expect(gcd(a / divisor, b / divisor)).toBe(1)
    expect(gcd(a * scale, b * scale)).toBe(divisor * scale)
    expect(gcd(0, a)).toBe(a)
  })

  it("counts a page as soon as it has one row", () => {
    expect([0, 1, 127, 128, 129, 256].map((rows) => pagesFor(rows, 128))).toEqual([0, 1, 1, 1, 2, 2])
  })
})
