import { fc, test } from "@fast-check/vitest"
import { fitFactors } from "uniprefill/bench/LeastSquares"
import { describe, expect, it } from "vitest"

const term = fc.double({ min: 0, max: 100, noNaN: true })
const factor = fc.double({ min: 0.1, max: 50, noNaN: true })

describe("fitted factors", () => {
  test.prop([fc.array(fc.tuple(term, term), { maxLength: 30 }), factor, factor, factor])(
    "are those that the equations were made of",
    (terms, a, b, c) => {
      // These tell the terms apart, whatever else is drawn.
      const all = [...terms, [1, 0], [0, 1], [5, 1], [1, 5]] as ReadonlyArray<[number, number]>
      const equations = all.map(([x, y]) => {
        const micros = a + b * x + c * y
        return { terms: [1, x, y], micros, whole: 1000 + micros }
      })
      for (const [i, found] of fitFactors(equations).entries()) expect(found).toBeCloseTo([a, b, c][i]!, 4)
    },
  )

  it("are hardly moved by two equations of twelve that are far off", () => {
    const equations = Array.from({ length: 12 }, (_, x) => {
      const micros = 50 + 7 * x
      return { terms: [1, x], micros: x % 6 === 5 ? micros + 400 : micros, whole: 1000 }
    })
    const [fixed, each] = fitFactors(equations)
    expect(Math.abs(fixed! - 50)).toBeLessThan(1)
    expect(Math.abs(each! - 7)).toBeLessThan(0.2)
  })

  it("are 0 where less than nothing fits best, and where no equation has the term", () => {
    const equations = [1, 2, 3].map((x) => ({ terms: [x, 10 - x, 0], micros: 20 * x - 5, whole: 100 }))
    const [rising, falling, absent] = fitFactors(equations)
    expect(rising).toBeGreaterThan(15)
    expect([falling, absent]).toEqual([0, 0])
  })

  it("weigh errors as shares of the steps that they are in", () => {
    const equations = [
      { terms: [1], micros: 10, whole: 100 },
      { terms: [1], micros: 1000, whole: 1_000_000 },
    ]
    expect(fitFactors(equations)[0]).toBeCloseTo(10, 0)
  })

  it("of no equations are none", () => expect(fitFactors([])).toEqual([]))
})
