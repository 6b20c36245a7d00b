import { readFileSync } from "node:fs"
import { fileURLToPath } from "node:url"
import { describe, expect, it } from "@effect/vitest"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import * as EngineLayer from "@uniprefill/engine/EngineLayer"
import { layerReference } from "@uniprefill/executor/reference/ReferenceExecutor"
import { makeReferenceModel, referenceSpec } from "@uniprefill/executor/reference/ReferenceModel"
import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Layer } from "effect"
import { runDemo } from "uniprefill/demo/Demo"
import { drawDemo } from "uniprefill/demo/DemoPicture"
import { makeDemoPrompt } from "uniprefill/demo/DemoPrompt"
import { type DemoReport, keptPositions, makeDemoReport } from "uniprefill/demo/DemoReport"

const directory = fileURLToPath(new URL("../../../packages/needle-10m-deep", import.meta.url))
const haystack = readFileSync(`${directory}/demo/haystack.txt`, "utf8")
const tokenizer = Tokenizer.layer({ directory })

describe("makeDemoPrompt", () => {
  it.effect("hides the sentence where it says, and asks for it in the model's own form", () =>
    Effect.gen(function* () {
      const tokens = yield* Tokenizer
      for (let seed = 0; seed < 10; seed++) {
        const prompt = yield* makeDemoPrompt(tokens, haystack, 3000, seed)
        const { needle, needleStart, needleEnd, question, expected } = prompt
        expect(prompt.tokens).toHaveLength(3000)
        const decode = (part: Int32Array) => tokens.decode(part, { skipSpecialTokens: true })
        expect(decode(prompt.tokens.subarray(needleStart, needleEnd))).toBe(` ${needle}`)
        expect(needle).toContain(` is ${expected}.`)
        expect(expected).toMatch(/^\d{7}$/)
        const text = decode(prompt.tokens)
        expect(text.endsWith(`\nQuestion: ${question}\nAnswer:`)).toBe(true)
        expect(text.split(expected)).toHaveLength(2)
        expect(needleStart).toBeGreaterThan(128)
        expect(needleEnd).toBeLessThan(3000 - 128)
      }
    }).pipe(Effect.provide(tokenizer)),
  )

  it.effect("is the same for the same seed and another for another", () =>
    Effect.gen(function* () {
      const tokens = yield* Tokenizer
      const [one, same, other] = yield* Effect.all(
        [1, 1, 2].map((seed) => makeDemoPrompt(tokens, haystack, 2000, seed)),
      )
      expect(same).toEqual(one)
      expect(other!.needle).not.toBe(one!.needle)
    }).pipe(Effect.provide(tokenizer)),
  )

  it.effect("says how long a prompt the text can make", () =>
    Effect.gen(function* () {
      const error = yield* Effect.flip(makeDemoPrompt(yield* Tokenizer, haystack, 50_000, 1))
      expect(error.message).toMatch(/^--tokens: the demo's text makes 19\d\d\d tokens, got 50000$/)
    }).pipe(Effect.provide(tokenizer)),
  )
})

describe("the report and its picture", () => {
  const schedule: DropSchedule = {
    ...denseSchedule,
    sink: 64,
    lastQ: 64,
    dropLayers: [
      { layer: 1, p: 0.9 },
      { layer: 2, p: 0.9 },
    ],
  }
  const layout = {
    segments: [
      { firstLayer: 0, lastLayer: 1 },
      { firstLayer: 2, lastLayer: 2 },
      { firstLayer: 3, lastLayer: 5 },
    ],
  } as never
  const prompt = {
    tokens: new Int32Array(600),
    needle: "The special magic number for old river is 1234567.",
    needleStart: 190,
    needleEnd: 200,
    question: "What is the special magic number for old river?",
    expected: "1234567",
  }
  // Ten blocks, the last of 24 rows: 0, 2, 3, 5 are set; then of the 320 rows kept, blocks 0 and 2.
  const bitmaps = [Uint32Array.of(0b101101), Uint32Array.of(0b101)]
  const answer = (text: string, ttftMicros: number) => ({ text, ttftMicros, bitmaps: [] })
  const report = makeDemoReport(
    "tiny",
    "cpu",
    prompt,
    layout,
    schedule,
    [answer(" 1234567\n", 2_000_000), answer(" 1234567\n", 3_000_000), answer(" 1234567\n", 9_000_000)],
    [1, 2, 3].map((seconds) => ({ text: " 12345\n", ttftMicros: seconds * 600_000, bitmaps })),
  )

  it("follows rows through nested selections", () => {
    const [all, first, second] = keptPositions(600, bitmaps, schedule)
    expect(all).toHaveLength(600)
    const range = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i)
    expect(Array.from(first!)).toEqual([...range(0, 64), ...range(128, 256), ...range(320, 384), ...range(536, 600)])
    expect(Array.from(second!)).toEqual([...range(0, 64), ...range(192, 256), ...range(536, 600)])
  })

  it("has medians, their ratio, rows per segment and shares per block", () => {
    expect(report.dense).toMatchObject({
      answer: "1234567",
      correct: true,
      ttftMillis: 3000,
      ttftsMillis: [2000, 3000, 9000],
    })
    expect(report.uniprefill).toMatchObject({ answer: "12345", correct: false, ttftMillis: 1200 })
    expect(report.ttftRatio).toBeCloseTo(0.4)
    expect(report.segments.map(({ rows }) => rows)).toEqual([600, 320, 192])
    expect(report.keptBlocks).toEqual([
      [1, 0, 1, 1, 0, 1, 0, 0, 40 / 64, 1],
      [1, 0, 0, 1, 0, 0, 0, 0, 40 / 64, 1],
    ])
    expect(report.needleBlocks).toEqual([2, 3])
  })

  it("draws what happened", () => {
    expect(drawDemo(report, { colour: false, columns: 80 })).toBe(`tiny on cpu

In a text of 600 tokens, at token 190, it says:
  The special magic number for old river is 1234567.
and the text ends with:
  What is the special magic number for old river?

          median of 3   answer
dense          3.00 s   1234567   correct
UniPrefill     1.20 s   12345     wrong, it is 1234567, 0.40 of the dense time

Rows that the layers compute
  layers 0 to 1   600  100%  ████████████████████████████████
  layer 2         320   53%  █████████████████
  layers 3 to 5   192   32%  ██████████

Blocks kept: █ all of its rows, ▓ ░ some, · none; ◆ the needle's, ◇ if it was dropped
  after layer 1
  █·◆◆·█··▓█
  after layer 2
  █·◇◆····▓█
`)
  })

  it("wraps to the terminal and colours only when told", () => {
    const long: DemoReport = { ...report, keptBlocks: [Array<number>(40).fill(1)] }
    const plain = drawDemo(long, { colour: false, columns: 22 })
    const lines = plain.split("\n").filter((line) => line.startsWith("  █"))
    expect(lines.map((line) => line.length)).toEqual([22, 22])
    expect(plain).not.toContain("\u001b")
    const coloured = drawDemo(long, { colour: true, columns: 22 })
    expect(coloured).toContain("\u001b[32m")
    expect(coloured.replace(/\u001b\[\d+m/g, "")).toBe(plain)
  })
})

describe("runDemo", () => {
  const spec = referenceSpec({
    layers: ["full", "full", "full"],
    vocab: 4096,
    hidden: 8,
    heads: 2,
    headDim: 4,
    maxPositions: 2048,
  })
  const schedule: DropSchedule = { ...denseSchedule, dropLayers: [{ layer: 1, p: 0.5 }] }
  const costModel: CostModel = { stepMicros: () => 1 }
  const engine = EngineLayer.layer({ spec, schedule, costModel, modelName: "reference" }).pipe(
    Layer.provide(layerReference({ model: makeReferenceModel(spec, 1), schedule, maxRowsPerStep: 2048 })),
    Layer.provideMerge(tokenizer),
  )
  const run = { name: "reference", haystack, schedule, tokens: 1100, seed: 1, repeat: 2 }

  it.live("asks a real engine both ways and sees what it kept", () =>
    Effect.gen(function* () {
      const report = yield* runDemo(run)
      expect(report.dense.ttftsMillis).toHaveLength(2)
      expect(report.dense.ttftMillis).toBeGreaterThan(0)
      expect(report.segments[0]!.rows).toBe(1100)
      expect(report.segments[1]!.rows).toBeLessThan(1100)
      expect(report.keptBlocks).toHaveLength(1)
      expect(report.keptBlocks[0]!).toHaveLength(18)
      expect(drawDemo(report, { colour: false, columns: 80 })).toContain("after layer 1")
    }).pipe(Effect.provide(engine)),
  )

  it.live("refuses lengths that it cannot show, and a model that never drops", () =>
    Effect.gen(function* () {
      const refusal = (change: Partial<typeof run>) =>
        Effect.map(Effect.flip(runDemo({ ...run, ...change })), (error) => error.message)
      expect(yield* refusal({ tokens: 1000 })).toBe("--tokens: prompts shorter than 1024 are served dense, got 1000")
      expect(yield* refusal({ tokens: 2040 })).toBe(
        "--tokens: this model takes 2048 tokens with an answer of 16, got 2040",
      )
      expect(yield* refusal({ schedule: denseSchedule })).toBe(
        "this model has no drop schedule, so there is nothing to compare",
      )
    }).pipe(Effect.provide(engine)),
  )
})
