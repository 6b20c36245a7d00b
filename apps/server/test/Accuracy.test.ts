import { execFile } from "node:child_process"
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { afterAll, describe, expect, it } from "@effect/vitest"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { type AccuracyReport, accuracyReport, accuracyText } from "uniprefill/quality/AccuracyReport"
import { accuracyHtml } from "uniprefill/quality/AccuracyHtml"
import type { Outcome, Score } from "uniprefill/quality/AccuracyRun"
import { readCases } from "uniprefill/quality/CaseFile"
import { pathKl } from "uniprefill/quality/Divergence"
import { mcNemar, meanWithin, median, wilson } from "uniprefill/quality/Statistics"
import { modelDirectory } from "./TestServer.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-accuracy-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const file = (name: string, text: string): string => {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

describe("statistics", () => {
  it("has Wilson's interval of textbooks", () => {
    const [low, high] = wilson(8, 10)
    expect([low, high].map((end) => end.toFixed(3))).toEqual(["0.490", "0.943"])
    expect(wilson(0, 10)[0]).toBe(0)
    expect(wilson(10, 10)[1]).toBe(1)
  })

  it("has the exact McNemar test by its binomial", () => {
    expect(mcNemar(0, 0)).toBe(1)
    expect(mcNemar(5, 5)).toBe(1)
    // Two-sided: 2 · (1 + 10) / 2¹⁰.
    expect(mcNemar(9, 1)).toBeCloseTo(22 / 1024, 12)
    expect(mcNemar(1, 9)).toBe(mcNemar(9, 1))
    expect(mcNemar(6, 0)).toBeCloseTo(2 / 64, 12)
  })

  it("has medians, and means with their interval", () => {
    expect(median([3, 1, 2])).toBe(2)
    expect(median([4, 1, 2, 3])).toBe(2.5)
    const [middle, half] = meanWithin([1, 2, 3, 4])
    expect(middle).toBe(2.5)
    expect(half).toBeCloseTo((1.96 * Math.sqrt(5 / 3)) / 2, 10)
  })

  it("follows an answer's divergence up to where the two part", () => {
    const place = (p: number) => [[1, Math.log(p)] as const, [2, Math.log(1 - p)] as const]
    const dense = { tokens: [1, 1, 1], likely: [place(0.9), place(0.8), place(0.9)] }
    expect(pathKl(dense, dense)).toBe(0)
    const parted = { tokens: [1, 2, 1], likely: [place(0.9), place(0.4), place(0.1)] }
    expect(pathKl(dense, parted)).toBeCloseTo(0.8 * Math.log(2) + 0.2 * Math.log(0.2 / 0.6), 6)
  })
})

const score = (isRight: boolean, kept: number, ttftMs: number | null): Score => ({
  text: isRight ? "yes" : "no",
  isRight,
  kept: [1, kept],
  firstKl: isRight ? 0 : 1,
  answerKl: isRight ? 0 : 2,
  ttftMicros: ttftMs === null ? null : ttftMs * 1000,
})

const outcomes: ReadonlyArray<Outcome> = [
  ...Array.from({ length: 20 }, (_, i) => ({
    task: "list",
    length: i < 10 ? 2048 : 4096,
    depth: null,
    scores: [score(true, 1, i % 2 === 0 ? 100 : null), score(i < 10, 0.5, i % 2 === 0 ? null : 60)],
  })),
  ...Array.from({ length: 10 }, (_, i) => ({
    task: "number",
    length: 4096,
    depth: (i + 0.5) / 10,
    scores: [score(true, 1, null), score(i !== 3, 0.5, null)],
  })),
  ...Array.from({ length: 10 }, () => ({
    task: "count",
    length: 4096,
    depth: null,
    scores: [score(false, 1, null), score(false, 0.5, null)],
  })),
]

const report = accuracyReport(
  { model: "tiny", device: "cpu", schedule: [{ layer: 1, p: 0.9 }], seed: 1 },
  [
    { name: "dense", minP: 1 },
    { name: "dropped", minP: 0 },
  ],
  outcomes,
)

describe("a report of accuracy", () => {
  it("counts by task and length, and pairs every prompt with itself", () => {
    const of = (task: string | null, length: number | null) =>
      report.groups.find((group) => group.task === task && group.length === length)!
    expect(of("list", null).results[1]).toMatchObject({ right: 10, lost: 10, won: 0, ttftMs: 60, timed: 10 })
    expect(of("list", 2048).results[1]).toMatchObject({ right: 10, lost: 0, accuracy: 1 })
    expect(of("list", null).results[0]).toMatchObject({ right: 20, ttftMs: 100, kept: [1, 1] })
    expect(of("list", null).results[1]!.firstKl.mean).toBe(0.5)
    expect(of(null, null)).toMatchObject({ prompts: 40 })
    expect(report.groups.some(({ task, length }) => task === "number" && length === 2048)).toBe(false)
  })

  it("says plainly where dropping loses, where chance could do it, and where nothing can be told", () => {
    expect(report.findings).toEqual([
      "list: dropped LOSES 10 of 20 (100% → 50%, p = 0.0020).",
      "number: dropped loses 1 of 10, which chance alone could do (p = 1.0).",
      "count: dense is right in 0 of 10, so this says nothing about dropping.",
      "dropped: of 40 prompts 11 are lost and 0 won, which is more than chance (p = 0.00098); rows kept 50%.",
    ])
    const text = accuracyText(report)
    expect(text).toContain("tiny on cpu; drops at layers 1 (p 0.9)")
    expect(text).toMatch(/^list +all +20 {2}dense +100% +84%–100% .* 100% +100 ms$/m)
    for (const finding of report.findings) expect(text).toContain(finding)
  })

  it("draws heat maps by depth and length of what rests on one place", () => {
    const [dense, dropped] = report.heat
    expect(report.heat).toHaveLength(2)
    expect(dense).toMatchObject({ variant: "dense", task: "number", lengths: [2048, 4096] })
    expect(dropped!.cells.map((row) => row[1])).toEqual(Array.from({ length: 10 }, (_, i) => [i === 3 ? 0 : 1, 1]))
    const page = accuracyHtml({ ...report, model: "<b>tiny</b>" })
    expect(page).toContain("&lt;b&gt;tiny&lt;/b&gt;")
    expect(page).not.toContain("<b>")
    expect(page).not.toMatch(/<script|https?:/)
    expect(page).toContain("30–40%</th><td></td><td style")
    expect(page).toContain("0/1</td>")
  })
})

describe("prompts of one's own", () => {
  it.live("are right where the answer's text is in what was answered", () =>
    Effect.gen(function* () {
      const path = file(
        "good.jsonl",
        '{"prompt": "a b", "answer": "42"}\n\n{"prompt":"c","answer":"x","task":"mine"}\n',
      )
      const [first, second] = yield* readCases(path)
      expect(first).toMatchObject({ id: "line-1", task: "cases", depth: null })
      expect([first!.isRight("it is 42."), first!.isRight("41")]).toEqual([true, false])
      expect(second).toMatchObject({ id: "line-3", task: "mine" })
      expect(first!.prompt.length).toBeGreaterThan(0)
    }).pipe(Effect.provide(Tokenizer.layer({ directory: modelDirectory }))),
  )

  it.live.each([
    ["not json", "bad.jsonl:2: "],
    ['{"prompt": "a"}', "bad.jsonl:2: Missing key"],
    ['{"prompt": "", "answer": "b"}', "bad.jsonl:2: "],
  ])("%s is refused with its line", ([line, message]) =>
    Effect.gen(function* () {
      const path = file("bad.jsonl", `{"prompt": "a", "answer": "b"}\n${line}\n`)
      const error = yield* Effect.flip(readCases(path))
      expect(error.message).toContain(message)
    }).pipe(Effect.provide(Tokenizer.layer({ directory: modelDirectory }))),
  )
})

describe("uniprefill accuracy", () => {
  const main = fileURLToPath(new URL("../src/main.ts", import.meta.url))
  const uniprefill = (...args: ReadonlyArray<string>) =>
    promisify(execFile)(process.execPath, ["--conditions=source", main, "accuracy", ...args])

  it("asks the embedded model dense and dropped, sharing what is the same, and writes a page", async () => {
    const page = join(folder, "accuracy.html")
    const args = [
      "--tasks",
      "number,code",
      "--prompts",
      "1",
      "--tokens",
      "1500",
      "--p",
      "0.95",
      "--json",
      "--html",
      page,
    ]
    const { stdout } = await uniprefill(...args)
    const found = JSON.parse(stdout) as AccuracyReport
    expect(found).toMatchObject({ format: "uniprefill-accuracy", variants: ["dense", "dropped", "p ≥ 0.95"] })
    const [dense, dropped, milder] = found.groups.at(-1)!.results
    expect(dense).toMatchObject({ accuracy: 1, lost: 0, won: 0, kept: [1, 1, 1, 1] })
    expect(dropped!.kept[3]!).toBeLessThan(milder!.kept[3]!)
    expect(milder!.kept[3]!).toBeLessThan(1)
    // Of two prompts each is timed for the variant alone that came first.
    expect([dense!.timed, dropped!.timed, milder!.timed]).toEqual([1, 1, 0])
    expect(readFileSync(page, "utf8")).toContain("<table>")
  })

  it.each([
    [["--drop-schedule", "off"], /no drop schedule, so there is nothing to compare/],
    [["--tokens", "999999", "--tasks", "number"], /this model takes \d+/],
    [["--cases", "nowhere.jsonl"], /--cases nowhere\.jsonl: no such file or directory\n$/],
    [["--tasks", "singing"], /--tasks: expected some of number, code/],
  ])("%j is refused with what is wrong", async (args, message) => {
    await expect(uniprefill(...args)).rejects.toMatchObject({ code: 2, stderr: expect.stringMatching(message) })
  })
})
