import { jsonFault } from "@uniprefill/model/JsonFault"
import fc from "fast-check"
import { describe, expect, it } from "vitest"

const parses = (text: string): boolean => {
  try {
    JSON.parse(text)
    return true
  } catch {
    return false
  }
}

describe("jsonFault", () => {
  it("finds nothing in JSON, however it is spaced", () => {
    fc.assert(
      fc.property(fc.jsonValue(), fc.constantFrom(undefined, 0, 2, "\t"), (value, space) => {
        expect(jsonFault(JSON.stringify(value, null, space))).toBeNull()
      }),
    )
  })

  it("agrees with JSON.parse on damaged texts", () => {
    const damage = fc.tuple(
      fc.json(),
      fc.nat(),
      fc.nat(3),
      fc.constantFrom("", ",", "}", "]", '"', ":", "1", "nul", "{"),
    )
    fc.assert(
      fc.property(damage, ([text, seed, cut, insert]) => {
        const at = seed % (text.length + 1)
        const damaged = text.slice(0, at) + insert + text.slice(at + cut)
        expect(jsonFault(damaged) === null).toBe(parses(damaged))
      }),
      { numRuns: 2000 },
    )
  })

  it.each([
    ['{\n  "a": 1,\n}', 'line 3 column 1: found "}", expected key'],
    ['{"a" 1}', 'line 1 column 6: found "1", expected :'],
    ['{"a": [1, 2', "line 1 column 12: the text ends, expected , or end"],
    ["", "line 1 column 1: the text ends, expected value"],
    ["{} {}", 'line 1 column 4: found "{", expected the end of the text'],
    ["[01]", 'line 1 column 3: found "1", expected , or end'],
  ])("names the place in %j", (text, message) => {
    expect(jsonFault(text)).toBe(message)
  })
})
