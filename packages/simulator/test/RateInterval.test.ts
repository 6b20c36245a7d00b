import { rateInterval, rateIntervalText } from "@uniprefill/simulator/explore/RateInterval"
import { expect, it } from "vitest"

const rates = [1, 2, 4, 8]
/** Each seed passes up to its rate. */
const upTo = (...most: ReadonlyArray<number>) =>
  rateInterval(
    rates,
    rates.map((rate) => most.map((one) => rate <= one)),
  )

it("contains the step of the grid where all seeds agree", () => {
  expect(upTo(2)).toEqual({ low: 2, high: 4 })
  expect(upTo(2, 2, 2)).toEqual({ low: 2, high: 4 })
})

it("has no upper end where a seed passes at the highest rate, and no lower one where one passes at none", () => {
  expect(upTo(8, 8)).toEqual({ low: 8, high: Number.POSITIVE_INFINITY })
  expect(upTo(8, 4).high).toBe(Number.POSITIVE_INFINITY)
  expect(upTo(0.5, 0.5)).toEqual({ low: 0, high: 1 })
  expect(upTo(0.5, 4).low).toBe(0)
})

it("contains the answers of seeds that differ, step of the grid included", () => {
  const { low, high } = upTo(2, 4, 4, 4)
  // Means 3.5 and 7, each ± 3.182 × its standard error.
  expect([low, high]).toEqual([expect.closeTo(3.5 - 3.182 * 0.5, 6), expect.closeTo(7 + 3.182 * 1, 6)])
})

it("takes the largest rate that passes, whatever fails below it", () => {
  expect(rateInterval(rates, [[true], [false], [true], [false]])).toEqual({ low: 4, high: 8 })
})

it("says which end is open", () => {
  const infinite = Number.POSITIVE_INFINITY
  const texts = [
    { low: 1, high: 2 },
    { low: 8, high: infinite },
    { low: 0, high: 1 },
  ].map(rateIntervalText)
  expect(texts).toEqual(["from 1.000 to 2.000 req/s", "8.000 req/s or more", "below 1.000 req/s"])
})
