import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { makeEncoder } from "@uniprefill/tokenizer/Encoder"
import { fewestTokens, textBound } from "@uniprefill/tokenizer/TextBound"
import type { TokenizerJson } from "@uniprefill/tokenizer/TokenizerFiles"
import fc from "fast-check"
import { describe, expect, it, test } from "vitest"

const needle = JSON.parse(
  readFileSync(fileURLToPath(new URL("../../needle-10m-deep/tokenizer.json", import.meta.url)), "utf8"),
) as TokenizerJson & { readonly model: { readonly vocab: Readonly<Record<string, number>> } }

describe("fewestTokens", () => {
  it("is never more than there are, whatever the text", () => {
    const encoder = makeEncoder(needle)
    const bound = textBound(needle)
    const longest = Object.keys(needle.model.vocab).filter((piece) => piece.length > 8)
    const word = fc.oneof(
      fc.string({ unit: "binary", maxLength: 8 }),
      fc.constantFrom(...longest).map((piece) => piece.replaceAll("Ġ", " ")),
      fc.constantFrom("<|eos|>", "  ", "🦔"),
    )
    fc.assert(
      fc.property(fc.array(word, { maxLength: 20 }), (words) => {
        const text = words.join("").toWellFormed()
        expect(fewestTokens(bound, text.length)).toBeLessThanOrEqual(encoder.encode(text, false).length)
      }),
      { numRuns: 500 },
    )
  })

  it("proves that a megabyte exceeds the model", () => {
    expect(fewestTokens(textBound(needle), 1_100_000)).toBeGreaterThan(32_768)
  })
})

test.each([
  ["a normalizer that takes blanks away", { normalizer: { type: "Strip" } }],
  ["one that makes a text shorter", { normalizer: { type: "Replace", pattern: { String: "  " }, content: " " } }],
  ["a pre-tokenizer that leaves blanks out", { pre_tokenizer: { type: "WhitespaceSplit" } }],
  [
    "one inside a sequence",
    { pre_tokenizer: { type: "Sequence", pretokenizers: [{ type: "Split", behavior: "Removed" }] } },
  ],
  ["a token that takes the blanks beside it", { added_tokens: [{ id: 5, content: "<m>", lstrip: true }] }],
  ["characters without a token", { decoder: { type: "Fuse" } }],
])("there is no bound with %s", (_, change) => {
  const bound = textBound({ ...needle, ...change })
  expect([bound.longestToken, fewestTokens(bound, 1e9)]).toEqual([null, 0])
})

test("normal forms may bring four characters together", () => {
  const plain = textBound(needle).longestToken!
  expect(textBound({ ...needle, normalizer: { type: "NFC" } }).longestToken).toBe(4 * plain)
})
