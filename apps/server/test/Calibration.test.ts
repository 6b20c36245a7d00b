import { execFile } from "node:child_process"
import { appendFileSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { promisify } from "node:util"
import { afterAll, describe, expect, it } from "@effect/vitest"
import { Engine, type GenerateEvent, type GenerateRequest } from "@uniprefill/engine/Engine"
import { decodeScheduleFile } from "@uniprefill/model/ScheduleFile"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { Effect, Stream } from "effect"
import { TestClock } from "effect/testing"
import { calibrationReport, type CalibrationReport, calibrationText } from "uniprefill/quality/CalibrationReport"
import type { CalibrationPlan } from "uniprefill/quality/CalibrationPlan"
import { calibrate } from "uniprefill/quality/CalibrationRun"
import { CalibrationState } from "uniprefill/quality/CalibrationState"
import { isLost, type Measure, paretoFront, verdictOf } from "uniprefill/quality/CalibrationVerdict"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-calibrate-"))
afterAll(() => rmSync(folder, { recursive: true, force: true }))

const budget = { answerKl: 0.1, loss: 0 }

const measure = (kl: number, isRight = true, wasRight = true): Measure => ({ kl, isRight, wasRight, kept: [0.5] })

describe("a verdict", () => {
  it("is safe within the budget, and not beyond it", () => {
    const same = Array.from({ length: 20 }, () => measure(0.05))
    expect(verdictOf(same, budget)).toMatchObject({ isSafe: true, lost: 0, won: 0, pValue: 1, kept: [0.5] })
    expect(verdictOf([...same, measure(2)], budget).isSafe).toBe(false)
    expect(verdictOf([...same, measure(0, false)], budget)).toMatchObject({ isSafe: false, lost: 1 })
    expect(verdictOf([...same, measure(0, false), measure(0, true, false)], budget).isSafe).toBe(true)
    expect(verdictOf([...same, measure(0, false)], { answerKl: 0.1, loss: 0.05 }).isSafe).toBe(true)
    // So many allowed by the share are too many by the test.
    const many = [...same, ...Array.from({ length: 8 }, () => measure(0, false))]
    expect(verdictOf(many, { answerKl: 0.1, loss: 1 })).toMatchObject({ isSafe: false, lost: 8 })
  })

  it("counts no divergence where dense is wrong, unless it is nowhere right", () => {
    const wrong = Array.from({ length: 3 }, () => measure(5, false, false))
    const mixed = verdictOf([...wrong, measure(0.02)], budget)
    expect(mixed).toMatchObject({ isSafe: true, answerKl: 0.02, lost: 0, won: 0 })
    expect(verdictOf(wrong, budget)).toMatchObject({ isSafe: false, answerKl: 5 })
    expect(isLost([...wrong, ...wrong], 6, budget)).toBe(false)
    expect(isLost([...wrong, ...Array.from({ length: 3 }, () => measure(5))], 6, budget)).toBe(true)
  })

  it("is lost early only where the rest of the prompts cannot mend it", () => {
    const bad = Array.from({ length: 5 }, () => measure(0.7))
    expect(isLost(bad, 30, budget)).toBe(true)
    expect(isLost(bad.slice(1), 30, budget)).toBe(false)
    expect(isLost(bad, 50, budget)).toBe(false)
    expect(
      isLost(
        Array.from({ length: 5 }, (_, i) => measure(0, i > 2)),
        30,
        budget,
      ),
    ).toBe(true)
  })

  it("leaves points on the front that no other beats in both", () => {
    const points = [
      { cost: 1, answerKl: 0.5 },
      { cost: 2, answerKl: 0.6 },
      { cost: 3, answerKl: 0.1 },
      { cost: 3, answerKl: 0.2 },
    ]
    expect(paretoFront(points)).toEqual([points[0], points[2]])
  })
})

describe("what was measured", () => {
  it.effect("is taken up again, without a line that was cut off, and by nobody else", () =>
    Effect.gen(function* () {
      const file = join(folder, "state.progress")
      const first = yield* CalibrationState.open(file, "model a")
      yield* first.keepDense("one", { tokens: [1], likely: [[[1, -0.5]]], isRight: true })
      yield* first.keep("3:0.9", "one", measure(0.25))
      appendFileSync(file, '{"case":"two","dense":{"tok')
      const again = yield* CalibrationState.open(file, "model a")
      expect(again.dense.get("one")!.likely).toEqual([[[1, -0.5]]])
      expect(again.measure("3:0.9", "one")).toEqual(measure(0.25))
      expect(again.measuresOf("3:0.99", [{ id: "one" }])).toEqual([])
      yield* again.keep("3:0.9", "zero", measure(0.5))
      expect(again.measuresOf("3:0.9", [{ id: "zero" }, { id: "two" }, { id: "one" }])).toEqual([
        measure(0.5),
        measure(0.25),
      ])
      expect(again.measuresOf("3:0.9", [{ id: "one" }])).toEqual([measure(0.25)])
      // What was written after the line that was cut off can be read, too.
      const third = yield* CalibrationState.open(file, "model a")
      expect(third.measure("3:0.9", "zero")).toEqual(measure(0.5))
      const other = yield* Effect.flip(CalibrationState.open(file, "model b"))
      expect(other.message).toContain("it is of another model or other options")
    }),
  )
})

/** Of one prompt, a layer does not bear so low a p that it bears elsewhere. */
interface Rarity {
  readonly of: string
  readonly layer: number
  readonly below: number
}

/** An engine that answers "yes", unless a layer drops harder than it bears. */
class PretendedEngine {
  readonly asked: Array<string> = []
  readonly started: Array<ReadonlyArray<number>> = []
  /** By layer: the least p that is harmless. */
  private readonly bears: ReadonlyMap<number, number>

  private readonly rarities: ReadonlyArray<Rarity>

  constructor(bears: ReadonlyMap<number, number>, rarities: ReadonlyArray<Rarity> = []) {
    this.bears = bears
    this.rarities = rarities
  }

  start(layers: ReadonlyArray<number>): Engine["Service"] {
    this.started.push(layers)
    return Engine.of({
      model: { spec: { vocabSize: 8 } as ModelSpec, executor: {} as never, maxModelLen: 4096, drops: true },
      generate: (request) => Effect.succeed([Stream.fromIterable(this.answer(layers, request))]),
      room: () => Effect.void,
      status: Effect.die("not asked"),
      drain: Effect.void,
      abortAll: Effect.void,
    })
  }

  private answer(layers: ReadonlyArray<number>, { requestId, p }: GenerateRequest): ReadonlyArray<GenerateEvent> {
    this.asked.push(requestId)
    const drops = layers.flatMap((layer, i) => (p![i]! < 1 ? [{ layer, p: p![i]! }] : []))
    // Two layers next to each other are too much.
    const isCrowded = drops.some(({ layer }) => drops.some((other) => other.layer === layer + 1))
    const own = this.rarities.filter(({ of }) => requestId.startsWith(`${of} `))
    const isHarmed =
      isCrowded ||
      drops.some(({ layer, p: share }) => share < this.bears.get(layer)!) ||
      drops.some(({ layer, p: share }) => own.some((rare) => rare.layer === layer && share < rare.below))
    let rows = 1
    const [likely, other] = isHarmed ? [Math.log(0.1), Math.log(0.9)] : [Math.log(0.9), Math.log(0.1)]
    const logprobs = [[[isHarmed ? 2 : 1, Math.max(likely, other)] as const, [1, likely] as const, [2, other] as const]]
    const times = { arrivedMicros: 0, firstScheduledMicros: 0, firstTokenMicros: 5, finishedMicros: 5 }
    return [
      { _tag: "Output", tokens: [isHarmed ? 2 : 1], text: isHarmed ? "no" : "yes", logprobs },
      {
        _tag: "Finished",
        reason: "stop",
        stopReason: null,
        promptTokens: 100,
        completionTokens: 1,
        cachedTokens: 0,
        lowered: false,
        kept: [1, ...p!.map((share) => (rows *= share))],
        bitmaps: [],
        times,
      },
    ]
  }
}

const casesOf = (name: string): CalibrationPlan["cases"] =>
  Array.from({ length: 10 }, (_, i) => ({
    id: `${name}-${i}`,
    task: "yes",
    prompt: new Int32Array(100),
    depth: null,
    isRight: (answer) => answer === "yes",
  }))

const planOf = (
  engine: PretendedEngine,
  state: CalibrationState,
  change: Partial<CalibrationPlan> = {},
): CalibrationPlan => ({
  cases: casesOf("case"),
  freshCases: casesOf("fresh"),
  candidates: [0, 1, 2, 4],
  grid: [0.9, 0.5],
  budget,
  maxTokens: 4,
  maxTrials: 10,
  state,
  deadline: Number.MAX_SAFE_INTEGER,
  engineOf: (layers) => Effect.sync(() => engine.start(layers)),
  // Of five layers, each costs the rows that it sees.
  costOf: (layers, kept) =>
    [0, 1, 2, 3, 4, 5].reduce((sum, layer) => sum + (kept[layers.findLastIndex((drop) => drop < layer)] ?? 1), 0),
  progress: () => Effect.void,
  ...change,
})

/** Layer 0 bears nothing, 1 and 2 do, but not together; 4 bears 0.9. */
const bears = new Map([
  [0, 1],
  [1, 0.5],
  [2, 0.5],
  [4, 0.9],
])

const best = [
  { layer: 1, p: 0.5 },
  { layer: 4, p: 0.9 },
]

const about = {
  model: "m",
  fingerprint: "f",
  device: "d",
  tokens: 100,
  prompts: 10,
  seed: 1,
  budget,
  denseRight: 10,
  freshPrompts: 10,
  freshDenseRight: 10,
  denseMs: 1,
}

describe("calibrating", () => {
  it.effect("finds the layers that may drop, and how hard, alone and together", () =>
    Effect.gen(function* () {
      const engine = new PretendedEngine(bears)
      const found = yield* calibrate(planOf(engine, yield* CalibrationState.open(join(folder, "a"), "a")))
      const safe = found.singles.filter(({ verdict }) => verdict.isSafe).map(({ layers }) => layers)
      expect(safe).toEqual([
        [{ layer: 1, p: 0.9 }],
        [{ layer: 1, p: 0.5 }],
        [{ layer: 2, p: 0.9 }],
        [{ layer: 2, p: 0.5 }],
        [{ layer: 4, p: 0.9 }],
      ])
      expect(found.chosen!.layers).toEqual(best)
      expect(found.trials.filter(({ verdict }) => !verdict.isSafe).map(({ layers }) => layers)).toEqual([
        [1, 2].map((layer) => ({ layer, p: 0.5 })),
        [
          { layer: 1, p: 0.5 },
          { layer: 2, p: 0.9 },
        ],
      ])
      const asked = (end: string) => engine.asked.filter((id) => id.endsWith(` ${end}`))
      // What destroys every answer is not asked to the end, nor a p above one that turns out to be safe.
      expect(asked("0:0.9")).toHaveLength(5)
      expect(asked("1:0.9")).toHaveLength(5)
      expect(asked("1:0.5")).toHaveLength(10)
      // Dense is asked once a prompt, and of the fresh ones by the check alone.
      expect(asked("dense")).toHaveLength(20)
      expect(asked("1:0.5,4:0.9")).toHaveLength(20)
      expect(found.checks).toMatchObject([{ layers: best, outcome: "passed", blamed: null, verdict: { prompts: 10 } }])
      // An engine for each layer, and one for those that are safe.
      expect(engine.started).toEqual([[0], [1], [2], [4], [1, 2, 4]])
    }),
  )

  it.effect("tries no milder p of a layer whose hardest is safe and gains nothing", () =>
    Effect.gen(function* () {
      const costOf = (layers: ReadonlyArray<number>, kept: ReadonlyArray<number>) =>
        layers.includes(1) ? 3 + kept[0]! : layers.includes(4) ? 4 + kept[0]! : 6
      const both = new PretendedEngine(
        new Map([
          [1, 0.5],
          [4, 0.5],
        ]),
      )
      const change = { candidates: [1, 4], costOf }
      const found = yield* calibrate(planOf(both, yield* CalibrationState.open(join(folder, "f"), "f"), change))
      expect(found.trials.map(({ layers }) => layers.map(({ p }) => p))).toEqual([[0.5, 0.5]])
      expect(found.chosen!.layers).toEqual([{ layer: 1, p: 0.5 }])
    }),
  )

  it.effect("goes on where it was ended, and asks nothing twice", () =>
    Effect.gen(function* () {
      const file = join(folder, "b")
      const whole = new PretendedEngine(bears)
      const expected = yield* calibrate(planOf(whole, yield* CalibrationState.open(file, "b")))
      const again = new PretendedEngine(bears)
      const found = yield* calibrate(planOf(again, yield* CalibrationState.open(file, "b")))
      expect(found).toEqual(expected)
      expect(again.asked).toEqual([])
    }),
  )

  it.effect("says what there was no time for, and chooses nothing where nothing is safe", () =>
    Effect.gen(function* () {
      const engine = new PretendedEngine(bears)
      const late = yield* calibrate(
        planOf(engine, yield* CalibrationState.open(join(folder, "c"), "c"), { deadline: -1 }),
      )
      expect(late).toEqual({
        singles: [],
        trials: [],
        checks: [],
        chosen: null,
        unmeasured: [0, 1, 2, 4],
        isCutShort: true,
      })
      expect(calibrationText(calibrationReport(about, late))).toContain(
        "Time was over before a layer was found that is safe to drop at: the schedule drops nothing",
      )
      const fragile = new PretendedEngine(new Map([0, 1, 2, 4].map((layer) => [layer, 1])))
      const found = yield* calibrate(planOf(fragile, yield* CalibrationState.open(join(folder, "d"), "d")))
      expect(found.chosen).toBeNull()
      const text = calibrationText(calibrationReport(about, found))
      expect(text).toContain("No layer is safe to drop at within this budget")
      expect(text).toContain("With 20 prompts a layer that loses one answer in ten may well pass")
    }),
  )
})

describe("checking the choice on fresh prompts", () => {
  const rareAt4 = [{ of: "fresh-7", layer: 4, below: 0.95 }]

  it.effect("finds the layer that fails rarely, takes it out and chooses again", () =>
    Effect.gen(function* () {
      const engine = new PretendedEngine(bears, rareAt4)
      const found = yield* calibrate(planOf(engine, yield* CalibrationState.open(join(folder, "rare"), "a")))
      expect(found.checks).toMatchObject([
        { layers: best, outcome: "failed", blamed: { layer: 4, p: 0.9 }, verdict: { lost: 1, isSafe: false } },
        { layers: [{ layer: 1, p: 0.5 }], outcome: "passed", blamed: null, verdict: { lost: 0, isSafe: true } },
      ])
      expect(found.chosen!.layers).toEqual([{ layer: 1, p: 0.5 }])
      // Layers are told apart by the prompt that diverged alone.
      expect(engine.asked.filter((id) => id.startsWith("fresh") && id.endsWith(" 4:0.9"))).toEqual(["fresh-7 4:0.9"])
      expect(new Set(engine.asked).size).toBe(engine.asked.length)
      const report = calibrationReport(about, found)
      expect(report).toMatchObject({ isChecked: true, checks: [{ outcome: "failed" }, { outcome: "passed" }] })
      const text = calibrationText(report)
      expect(text).toMatch(/1:0\.5,4:0\.9 .* failed: layer 4 at p 0\.9 or lower is taken out/)
      expect(text).toContain("It passed the check on fresh prompts.")
    }),
  )

  it.effect("leaves the layer a milder p, and drops nothing where every choice fails", () =>
    Effect.gen(function* () {
      const plan = { candidates: [1] }
      const milder = new PretendedEngine(bears, [{ of: "fresh-0", layer: 1, below: 0.9 }])
      const found = yield* calibrate(planOf(milder, yield* CalibrationState.open(join(folder, "mild"), "a"), plan))
      expect(found.checks.map(({ blamed }) => blamed)).toEqual([{ layer: 1, p: 0.5 }, null])
      expect(found.chosen!.layers).toEqual([{ layer: 1, p: 0.9 }])
      const never = new PretendedEngine(bears, [{ of: "fresh-0", layer: 1, below: 1 }])
      const none = yield* calibrate(planOf(never, yield* CalibrationState.open(join(folder, "never"), "a"), plan))
      expect(none.checks.map(({ outcome }) => outcome)).toEqual(["failed", "failed"])
      expect(none.chosen).toBeNull()
      expect(calibrationText(calibrationReport(about, none))).toContain("Nothing that was chosen passed the check")
    }),
  )

  it.effect("takes one lost answer for chance, and six of ten not, whatever the divergence may be", () =>
    Effect.gen(function* () {
      const lostOf = Effect.fnUntraced(function* (count: number) {
        const rarities = Array.from({ length: count }, (_, i) => ({ of: `fresh-${i}`, layer: 1, below: 1 }))
        const engine = new PretendedEngine(bears, rarities)
        const state = yield* CalibrationState.open(join(folder, `lost-${count}`), "a")
        const change = { candidates: [1], grid: [0.5], budget: { answerKl: 10, loss: 0 } }
        return (yield* calibrate(planOf(engine, state, change))).checks[0]!.outcome
      })
      expect(yield* lostOf(1)).toBe("passed")
      expect(yield* lostOf(6)).toBe("failed")
    }),
  )

  it.effect("counts no divergence where dense is wrong", () =>
    Effect.gen(function* () {
      const engine = new PretendedEngine(bears, rareAt4)
      const freshCases = casesOf("fresh").map((one, i) => (i === 7 ? { ...one, isRight: () => false } : one))
      const state = yield* CalibrationState.open(join(folder, "wrong"), "a")
      const found = yield* calibrate(planOf(engine, state, { freshCases }))
      expect(found.checks).toMatchObject([{ layers: best, outcome: "passed", verdict: { lost: 0 } }])
      expect(found.checks[0]!.verdict.answerKl).toBe(0)
      expect(state.measure("1:0.5,4:0.9", "fresh-7")!.kl).toBeGreaterThan(1)
    }),
  )

  it.effect("says what was not checked for lack of time, and goes on there", () =>
    Effect.gen(function* () {
      const file = join(folder, "cut")
      const overAt = (begin: string) => ({
        deadline: 1000,
        progress: (text: string) => (text.startsWith(begin) ? TestClock.setTime(1000) : Effect.void),
      })
      const engine = new PretendedEngine(bears, rareAt4)
      const plan = planOf(engine, yield* CalibrationState.open(file, "a"))
      yield* TestClock.setTime(0)
      const cut = yield* calibrate({ ...plan, ...overAt("check of 1:0.5,4:0.9: fresh prompt 4 of 10") })
      expect(cut.checks).toMatchObject([{ outcome: "unfinished", blamed: null, verdict: { prompts: 4 } }])
      expect(cut).toMatchObject({ isCutShort: true, chosen: { layers: best } })
      const report = calibrationReport(about, cut)
      expect(report.isChecked).toBe(false)
      expect(calibrationText(report)).toContain(
        "IT WAS NOT CHECKED on prompts that it was not chosen by (time was over)",
      )

      // Over before it is known which layer fails: what failed is not chosen.
      yield* TestClock.setTime(0)
      const failed = yield* calibrate({ ...plan, ...overAt("which layer is to blame: 4") })
      expect(failed.checks).toMatchObject([{ outcome: "failed", blamed: { layer: 4 } }])
      expect(failed.chosen!.layers).toEqual([{ layer: 1, p: 0.5 }])
      expect(calibrationReport(about, failed).isChecked).toBe(false)

      yield* TestClock.setTime(0)
      const whole = yield* calibrate(plan)
      expect(whole).toMatchObject({ isCutShort: false, chosen: { layers: [{ layer: 1, p: 0.5 }] } })
      expect(new Set(engine.asked).size).toBe(engine.asked.length)

      const unchecked = yield* calibrate({ ...plan, freshCases: [] })
      expect(unchecked).toMatchObject({ checks: [], chosen: { layers: best } })
      const none = calibrationReport({ ...about, freshPrompts: 0 }, unchecked)
      expect(none.isChecked).toBe(false)
      expect(calibrationText(none)).toContain(
        "IT WAS NOT CHECKED on prompts that it was not chosen by (--check-prompts is 0)",
      )
    }),
  )

  it.effect("asks a milder p to the end where the hardest fails late", () =>
    Effect.gen(function* () {
      const engine = new PretendedEngine(bears, [{ of: "case-8", layer: 1, below: 0.9 }])
      const state = yield* CalibrationState.open(join(folder, "late"), "a")
      const { singles, chosen } = yield* calibrate(planOf(engine, state, { candidates: [1] }))
      expect(singles).toMatchObject([
        { layers: [{ layer: 1, p: 0.9 }], verdict: { prompts: 10, isSafe: true } },
        { layers: [{ layer: 1, p: 0.5 }], verdict: { prompts: 9, isSafe: false } },
      ])
      expect(chosen!.layers).toEqual([{ layer: 1, p: 0.9 }])
      // By an answer alone, which shows when all were asked.
      const fresh = yield* CalibrationState.open(join(folder, "later"), "a")
      const plan = planOf(engine, fresh, { candidates: [1], budget: { answerKl: 10, loss: 0 } })
      expect((yield* calibrate(plan)).singles).toMatchObject([
        { layers: [{ layer: 1, p: 0.9 }], verdict: { prompts: 10, isSafe: true } },
        { layers: [{ layer: 1, p: 0.5 }], verdict: { prompts: 10, isSafe: false } },
      ])
    }),
  )
})

describe("uniprefill calibrate", () => {
  const main = fileURLToPath(new URL("../src/main.ts", import.meta.url))
  const uniprefill = (...args: ReadonlyArray<string>) =>
    promisify(execFile)(process.execPath, ["--conditions=source", main, ...args])

  it("writes a schedule that its model takes and another refuses", async () => {
    const out = join(folder, "uniprefill.json")
    const keep = join(folder, "needle.keep.json")
    const options = [
      "--tasks",
      "number",
      "--prompts",
      "1",
      "--check-prompts",
      "2",
      "--tokens",
      "1100",
      "--p",
      "0.9",
      "--max-trials",
      "1",
      "--keep-tokens",
      "1100,1500",
    ]
    const { stdout } = await uniprefill("calibrate", ...options, "--out", out, "--keep", keep, "--json")
    const report = JSON.parse(stdout) as CalibrationReport
    expect(report.singles.map(({ layers }) => layers[0]!.layer)).toEqual(Array.from({ length: 15 }, (_, i) => i))
    expect(report.denseRight).toBe(1)
    for (const { kept, prompts } of report.singles) {
      expect(prompts).toBe(1)
      expect(kept[0]!).toBeGreaterThan(0.2)
      expect(kept[0]!).toBeLessThan(1)
    }
    expect(report.chosen!.predictedMs).toBeLessThan(report.denseMs)
    expect(report).toMatchObject({ isChecked: true, isCutShort: false, freshPrompts: 2 })
    expect(report.checks.at(-1)).toMatchObject({ layers: report.chosen!.layers, prompts: 2, outcome: "passed" })
    expect(existsSync(`${out}.progress`)).toBe(false)
    const text = readFileSync(out, "utf8")
    const spec = { layers: Array.from({ length: 16 }, () => ({ mixer: { kind: "full" } })) } as unknown as ModelSpec
    const { schedule, fingerprint } = await Effect.runPromise(decodeScheduleFile(out, JSON.parse(text), spec))
    expect(schedule.dropLayers).toEqual(report.chosen!.layers)
    expect(fingerprint).toBe(report.fingerprint)
    const kept = JSON.parse(readFileSync(keep, "utf8")) as { points: ReadonlyArray<{ kept: ReadonlyArray<number> }> }
    expect(kept).toMatchObject({ format: "uniprefill-keep", source: "measured" })
    expect(kept.points.map((point) => ({ ...point, kept: point.kept.length }))).toEqual(
      [1100, 1500].flatMap((tokens) => [0.9].map((p) => ({ tokens, p, kept: report.chosen!.layers.length }))),
    )
    await expect(uniprefill("calibrate", "--out", out)).rejects.toMatchObject({
      code: 2,
      stderr: expect.stringContaining("is there already"),
    })
    writeFileSync(out, text.replace(fingerprint!, "0123456789abcdef"))
    await expect(uniprefill("generate", "x", "--drop-schedule", out, "--executor", "cpu")).rejects.toMatchObject({
      stderr: expect.stringContaining(`it was made for model 0123456789abcdef, this one is ${fingerprint}`),
    })
  })
})
