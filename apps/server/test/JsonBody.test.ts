import { brotliCompressSync, deflateSync, gzipSync, zstdCompressSync } from "node:zlib"
import fc from "fast-check"
import type { LongestText } from "uniprefill/answers/TextExcess"
import { bodyEncodings, type BodyLimits, buffersOf, parseBody } from "uniprefill/body/JsonBody"
import { jsonPieces } from "uniprefill/answers/SlicedJson"
import { describe, expect, it, test } from "vitest"

const limits: BodyLimits = {
  bodyBytes: 100_000,
  jsonDepth: 8,
  jsonValues: 1000,
  longestText: { _tag: "Characters", characters: 100_000 },
}
const bytes = (text: string) => new TextEncoder().encode(text)
const parse = (text: string) => parseBody(bytes(text), null, limits)
const valueOf = (text: string): any => {
  const parsed = parse(text)
  if (parsed.refused !== null) throw new Error(parsed.refused.message)
  return parsed.value
}
const refusalOf = (text: string) => parse(text).refused?.message ?? "accepted"

/** Long lists of integers back as plain lists. */
const plain = (value: unknown): unknown => {
  if (value instanceof Int32Array) return [...value]
  if (Array.isArray(value)) return value.map(plain)
  if (typeof value !== "object" || value === null) return value
  return Object.fromEntries(Object.entries(value).map(([key, of]) => [key, plain(of)]))
}

describe("parseBody", () => {
  it("gives what JSON.parse gives, for anything within the limits", () => {
    const integers = fc.array(fc.integer({ min: -5, max: 2 ** 31 - 1 }), { maxLength: 40 })
    const value = fc.oneof(fc.jsonValue({ maxDepth: 4 }), integers, fc.dictionary(fc.string(), integers))
    fc.assert(
      fc.property(value, fc.constantFrom(0, 1, 3), (json, indent) => {
        const text = JSON.stringify(json, null, indent)
        expect(plain(valueOf(text))).toEqual(JSON.parse(text))
      }),
      { numRuns: 300 },
    )
  })

  it("makes long lists of integers such as can be given away", () => {
    const value = valueOf(`{"prompt":[[${Array(500).fill(7).join(",")}],[1,2]],"seed":5}`)
    expect(value.prompt[0]).toBeInstanceOf(Int32Array)
    expect(value.prompt[1]).toEqual([1, 2])
    expect(buffersOf(value)).toEqual([value.prompt[0].buffer])
    expect(
      valueOf(
        `[${Array(20)
          .fill(2 ** 31)
          .join(",")}]`,
      ),
    ).toBeInstanceOf(Array)
  })

  it("reads seeds of 64 bits to the last", () => {
    expect(valueOf('{"seed":9007199254740993}').seed).toBe(9007199254740993n)
    expect(valueOf('{"a":{"seed" : -9223372036854775808}}').a.seed).toBe(-9223372036854775808n)
    expect(valueOf('{"seed":12345}').seed).toBe(12_345)
    expect(valueOf('{"seed":12345678901234567.5,"n":9007199254740993}')).toEqual({
      seed: Number("12345678901234567.5"),
      n: 9007199254740992,
    })
  })

  it("makes halves of characters U+FFFD, in values and in keys", () => {
    expect(valueOf('{"prompt":"x\\ud800y","stop":["\\uDC00","\\ud83e\\udd94"],"\\ud800":1}')).toEqual({
      prompt: "x\ufffdy",
      stop: ["\ufffd", "🦔"],
      "\ufffd": 1,
    })
  })

  test.each([
    ["[".repeat(9), "request body nests more than 8 arrays and objects"],
    [`${"[".repeat(8)}1${"]".repeat(8)}`, "accepted"],
    ['{"a":"[[[[[[[[[[[[\\"[["}', "accepted"],
    [
      `{${Array.from({ length: 1200 }, (_, i) => `"${i}":1`).join(",")}}`,
      "request body has more than 1000 keys and values that are no integers",
    ],
    [`[${Array(1200).fill('"a"').join(",")}]`, "request body has more than 1000 keys and values that are no integers"],
    [`[${Array(1200).fill("0.5").join(",")}]`, "request body has more than 1000 keys and values that are no integers"],
    [`[${Array(1200).fill("null").join(",")}]`, "request body has more than 1000 keys and values that are no integers"],
    [`[${Array(1200).fill("[]").join(",")}]`, "request body has more than 1000 keys and values that are no integers"],
    [`[${Array(1200).fill(" 12 ").join(",")}]`, "accepted"],
    [`{"a":"${",:".repeat(1200)}"}`, "accepted"],
    ["", "request body is not JSON: it is empty"],
  ])("bounds depth and size before anything is built: %.20s", (text, says) => {
    expect(refusalOf(text)).toBe(says)
  })

  it("refuses what is no JSON or no UTF-8, whatever the bytes", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (noise) => {
        const { refused } = parseBody(noise, null, limits)
        expect(refused?.message ?? "request body is fine").toMatch(/^request body .*$/s)
      }),
    )
  })

  it("refuses long texts that could be no prompt, by where they are, and lets others through", () => {
    const model = { _tag: "Model", maxModelLen: 1000, longestToken: 2000 } as const
    const parseLong = (value: unknown, longestText: LongestText = model) =>
      parseBody(bytes(JSON.stringify(value)), null, { bodyBytes: 1 << 24, jsonDepth: 64, jsonValues: 100, longestText })
    const fits = "x".repeat(1_998_000)
    const long = `${fits}${fits}`
    expect(parseLong({ prompt: fits, other: [fits] }).refused).toBeNull()
    const words = "has 3996000 characters, which are 1998 tokens at least"
    expect(parseLong({ prompt: long }).refused).toEqual({
      status: 400,
      message: `this model takes at most 1000 tokens, but prompt ${words}`,
      param: "prompt",
    })
    expect(parseLong({ messages: [{ content: "x" }, { content: [{ text: long }] }] }).refused).toMatchObject({
      message: expect.stringContaining(`messages[1].content[0].text ${words}`),
      param: "messages[1].content[0].text",
    })
    expect(parseLong({ prompt: long }, { _tag: "Characters", characters: 2_000_000 }).refused?.message).toBe(
      "prompt has 3996000 characters, the limit is 2000000",
    )
  })

  it("speaks the encodings that it names, bounded", () => {
    const compress = { gzip: gzipSync, deflate: deflateSync, br: brotliCompressSync, zstd: zstdCompressSync }
    expect(bodyEncodings).toEqual(Object.keys(compress))
    for (const encoding of bodyEncodings) {
      const packed = compress[encoding](bytes('{"prompt":"x"}'))
      expect(parseBody(packed, encoding, limits)).toEqual({ value: { prompt: "x" }, refused: null })
      const bomb = compress[encoding](new Uint8Array(1_000_000).fill(0x20))
      expect(parseBody(bomb, encoding, limits).refused).toEqual({
        status: 413,
        message: "request body exceeds the limit of 100000 bytes once decompressed",
        param: null,
      })
      expect(parseBody(bytes("{}"), encoding, limits).refused?.status).toBe(400)
    }
  })
})

describe("jsonPieces", () => {
  it("are together what JSON.stringify gives, each short", () => {
    const long = "🦔\n".repeat(100_000)
    const values = [
      { a: Int32Array.from({ length: 5000 }, (_, i) => i), b: undefined, c: null },
      { text: long, list: Array.from({ length: 3000 }, (_, i) => ({ i, text: i === 2999 ? long : "x" })) },
      ["x".repeat(70_000), {}, []],
      // Much in all, and none of it long.
      {
        choices: Array.from({ length: 64 }, () => ({
          top: Array.from({ length: 400 }, () => ({ a: 1, b: [2, null], c: "x" })),
        })),
      },
      { z: "x".repeat(65_535) + "🦔".repeat(10), o: Array(3000).fill(null) },
    ]
    for (const value of values) {
      const pieces = [...jsonPieces(value)]
      expect(Math.max(...pieces.map((piece) => piece.length))).toBeLessThan(200_000)
      expect(JSON.parse(pieces.join(""))).toEqual(JSON.parse(JSON.stringify(plain(value))))
    }
  })

  it("for any JSON", () => {
    fc.assert(
      fc.property(fc.jsonValue(), (value) => {
        expect([...jsonPieces(value)].join("")).toBe(JSON.stringify(value))
      }),
    )
  })
})
