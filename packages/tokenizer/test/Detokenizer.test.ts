import { Tokenizer as HuggingFace } from "@huggingface/tokenizers"
import { Detokenizer } from "@uniprefill/tokenizer/Detokenizer"
import type { TokenizerJson } from "@uniprefill/tokenizer/TokenizerFiles"
import { Vocabulary } from "@uniprefill/tokenizer/Vocabulary"
import fc from "fast-check"
import { readFileSync } from "node:fs"
import { describe, expect, it } from "vitest"

const needleJson = JSON.parse(
  readFileSync(new URL("../../needle-10m-deep/tokenizer.json", import.meta.url), "utf8"),
) as TokenizerJson
const needle = new Vocabulary(needleJson)
const oracle = new HuggingFace(needleJson, {})

/** What decoding all tokens at once gives, by the library. */
const wholeDecode = (library: HuggingFace, tokens: Array<number>, skipSpecialTokens: boolean) => {
  const left = skipSpecialTokens ? tokens.filter((token) => !needle.specialIds.has(token)) : tokens
  return left.length === 0
    ? ""
    : library.decode(left, { skip_special_tokens: false, clean_up_tokenization_spaces: false })
}

const pieces = (detokenizer: Detokenizer, tokens: ReadonlyArray<number>) => [
  ...tokens.map((token) => detokenizer.push(token)),
  detokenizer.flush(),
]

const halfCharacter = /[\uD800-\uDBFF]$|^[\uDC00-\uDFFF]/

describe("a byte-level vocabulary", () => {
  it("gives, token by token, the text of a whole decode of any ids", () => {
    const ids = fc.array(fc.integer({ min: 0, max: needle.size - 1 }), { maxLength: 40 })
    fc.assert(
      fc.property(ids, fc.boolean(), (tokens, skipSpecialTokens) => {
        const parts = pieces(new Detokenizer(needle, { skipSpecialTokens }), tokens)
        expect(parts.join("")).toBe(wholeDecode(oracle, tokens, skipSpecialTokens))
        for (const part of parts) expect(part).not.toMatch(halfCharacter)
      }),
      { numRuns: 500 },
    )
  })

  it("does so where every token is one byte of a character or of none", () => {
    const singleBytes = Array.from({ length: needle.size }, (_, id) => id).filter(
      (id) => needle.bytesOf(id).length === 1 && !needle.specialIds.has(id),
    )
    expect(singleBytes).toHaveLength(256)
    const heavy = singleBytes.filter((id) => needle.bytesOf(id)[0]! >= 0x80)
    fc.assert(
      fc.property(fc.array(fc.constantFrom(...heavy), { maxLength: 24 }), (tokens) => {
        const parts = pieces(new Detokenizer(needle, { skipSpecialTokens: false }), tokens)
        expect(parts.join("")).toBe(wholeDecode(oracle, tokens, false))
      }),
      { numRuns: 1_000 },
    )
  })

  it("shows U+FFFD for no text that is well formed", () => {
    const text = fc.string({ unit: "binary" }).map((value) => value.replaceAll("\uFFFD", ""))
    fc.assert(
      fc.property(text, (value) => {
        if (value === "") return
        const tokens = oracle.encode(value).ids
        const parts = pieces(new Detokenizer(needle, { skipSpecialTokens: false }), tokens)
        expect(parts.join("")).toBe(value)
        for (const part of parts) expect(part).not.toContain("\uFFFD")
      }),
      { numRuns: 300 },
    )
  })

  it("holds an emoji back until its last token", () => {
    const tokens = oracle.encode("🦔").ids
    expect(tokens.length).toBeGreaterThan(1)
    expect(pieces(new Detokenizer(needle, { skipSpecialTokens: false }), tokens)).toEqual([
      ...tokens.slice(1).map(() => ""),
      "🦔",
      "",
    ])
  })

  it("ends a character that was cut off with U+FFFD, at the flush only", () => {
    const tokens = oracle.encode("a🦔").ids.slice(0, -1)
    const parts = pieces(new Detokenizer(needle, { skipSpecialTokens: false }), tokens)
    expect(parts.slice(0, -1).join("")).toBe("a")
    expect(parts.at(-1)).toBe("\uFFFD")
  })

  it("completes a character that began in the tokens before", () => {
    const tokens = oracle.encode("so 🦔").ids
    const cut = tokens.length - 1
    const detokenizer = new Detokenizer(needle, {
      skipSpecialTokens: true,
      after: Int32Array.from(tokens.slice(0, cut)),
    })
    expect(detokenizer.push(tokens[cut])).toBe("🦔")
  })

  it("reads over special tokens inside a character when they are skipped", () => {
    const tokens = oracle.encode("🦔").ids
    const withSpecial = [tokens[0]!, 1, ...tokens.slice(1)]
    expect(pieces(new Detokenizer(needle, { skipSpecialTokens: true }), withSpecial).join("")).toBe("🦔")
    expect(pieces(new Detokenizer(needle, { skipSpecialTokens: false }), withSpecial).join("")).toContain("<|eos|>")
  })

  it("gives ids without a token no text", () => {
    expect(pieces(new Detokenizer(needle, { skipSpecialTokens: false }), [needle.size, 100_000_000]).join("")).toBe("")
  })
})

describe("a SentencePiece vocabulary", () => {
  const json = {
    added_tokens: [{ id: 0, content: "<s>", special: true }],
    normalizer: null,
    pre_tokenizer: null,
    post_processor: null,
    decoder: {
      type: "Sequence",
      decoders: [
        { type: "Replace", pattern: { String: "▁" }, content: " " },
        { type: "ByteFallback" },
        { type: "Fuse" },
        { type: "Strip", content: " ", start: 1, stop: 0 },
      ],
    },
    model: {
      type: "BPE",
      byte_fallback: true,
      merges: [],
      vocab: Object.fromEntries(
        [
          "<s>",
          "▁",
          "▁▁",
          "▁so",
          "é",
          "🦔",
          ...Array.from({ length: 256 }, (_, byte) => `<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`),
        ].map((piece, id) => [piece, id]),
      ),
    },
  } as const
  const vocabulary = new Vocabulary(json)
  const library = new HuggingFace(json, {})

  it("gives, token by token, the text of a whole decode of any ids", () => {
    fc.assert(
      fc.property(fc.array(fc.integer({ min: 0, max: vocabulary.size - 1 }), { maxLength: 24 }), (tokens) => {
        const parts = pieces(new Detokenizer(vocabulary, { skipSpecialTokens: false }), tokens)
        expect(parts.join("")).toBe(wholeDecode(library, tokens, false))
      }),
      { numRuns: 1_000 },
    )
  })

  it("takes the first space away at the start of a text, and not after a prompt", () => {
    const so = 3
    expect(new Detokenizer(vocabulary, { skipSpecialTokens: true }).push(so)).toBe("so")
    expect(new Detokenizer(vocabulary, { skipSpecialTokens: true, after: Int32Array.of(so) }).push(so)).toBe(" so")
  })
})
