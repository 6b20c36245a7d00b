import { StopStrings } from "@uniprefill/engine/StopStrings"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

/** The match that ends first in the whole text, the longest of those that end together. */
const cut = (text: string, stops: ReadonlyArray<string>): { text: string; match: string | null } => {
  for (let end = 1; end <= text.length; end++) {
    const matches = stops.filter((stop) => text.slice(0, end).endsWith(stop)).sort((a, b) => b.length - a.length)
    const match = matches[0]
    if (match !== undefined) return { text: text.slice(0, end - match.length), match }
  }
  return { text, match: null }
}

const run = (pieces: ReadonlyArray<string>, stops: ReadonlyArray<string>) => {
  const matcher = new StopStrings(stops)
  let text = ""
  for (const piece of pieces) {
    const result = matcher.push(piece)
    text += result.text
    if (result.match !== null) return { text, match: result.match }
  }
  return { text: text + matcher.flush(), match: null }
}

const word = (maxLength: number) => fc.string({ unit: fc.constantFrom("a", "b", "🦔"), minLength: 1, maxLength })
const cutInto = (text: string, at: ReadonlyArray<number>) => {
  const places = [0, ...[...new Set(at.map((n) => n % (text.length + 1)))].sort((a, b) => a - b), text.length]
  return places.slice(1).map((end, i) => text.slice(places[i], end))
}

describe("StopStrings", () => {
  it("cuts a text at the first match, however the text is cut into pieces", () => {
    fc.assert(
      fc.property(
        word(30),
        fc.array(word(5), { maxLength: 4 }),
        fc.array(fc.nat(), { maxLength: 12 }),
        (text, stops, at) => {
          expect(run(cutInto(text, at), stops)).toEqual(cut(text, stops))
        },
      ),
      { numRuns: 3_000 },
    )
  })

  it("never gives out text that could belong to a match, and holds back nothing else", () => {
    fc.assert(
      fc.property(word(20), fc.array(word(5), { minLength: 1, maxLength: 3 }), (text, stops) => {
        const matcher = new StopStrings(stops)
        let given = ""
        for (let i = 0; i < text.length; i++) {
          const { text: certain, match } = matcher.push(text[i]!)
          given += certain
          if (match !== null) return
          const seen = text.slice(0, i + 1)
          const starts = stops.flatMap((stop) =>
            Array.from({ length: stop.length }, (_, n) => n).filter((n) => seen.endsWith(stop.slice(0, n))),
          )
          expect(seen.length - given.length).toBe(Math.max(0, ...starts))
        }
      }),
      { numRuns: 1_000 },
    )
  })

  it("gives everything at once when there is nothing to look for", () => {
    expect(new StopStrings([]).push("all of it")).toEqual({ text: "all of it", match: null })
  })
})
