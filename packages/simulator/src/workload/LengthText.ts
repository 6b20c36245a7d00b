import type { LengthDistribution } from "./Synthetic.ts"
import { longestTokens } from "./TraceRows.ts"

/** `8192`, `uniform:100-4000`, `lognormal:MEDIAN,SIGMA,MOST`. Fails with RangeError naming the field. */
export const parseLengths = (field: string, text: string): LengthDistribution => {
  const tokens = (value: string | undefined): number => {
    const number = Number(value)
    if (Number.isInteger(number) && number >= 1 && number <= longestTokens) return number
    throw new RangeError(`${field}: ${JSON.stringify(value)} is not a number of tokens from 1 to ${longestTokens}`)
  }
  const [kind, rest] = text.includes(":") ? (text.split(":", 2) as [string, string]) : ["fixed", text]
  if (kind === "fixed") return { kind, tokens: tokens(rest) }
  if (kind === "uniform") {
    const [low, high] = rest.split("-")
    const lengths = { kind, low: tokens(low), high: tokens(high) } as const
    if (lengths.high < lengths.low) throw new RangeError(`${field}: ${text} ends below its start`)
    return lengths
  }
  if (kind === "lognormal") {
    const [median, sigma, most] = rest.split(",")
    const spread = Number(sigma)
    if (!(spread >= 0 && spread <= 5))
      throw new RangeError(`${field}: sigma ${JSON.stringify(sigma)} is not a number from 0 to 5`)
    return { kind, median: tokens(median), sigma: spread, most: most === undefined ? longestTokens : tokens(most) }
  }
  throw new RangeError(
    `${field}: ${JSON.stringify(text)} is none of 8192, uniform:100-4000, lognormal:MEDIAN,SIGMA,MOST`,
  )
}
