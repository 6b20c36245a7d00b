import { fc, test } from "@fast-check/vitest"
import { denseSchedule, type DropSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { blockCount, keptRows, selectBlocks } from "@uniprefill/model/Selection"
import { keptShare, paperKeep, type KeepProfile } from "@uniprefill/simulator/model/KeepProfile"
import { type RecordedPrompt, RecordedSelections } from "@uniprefill/simulator/model/RecordedSelections"
import { SelectionDraw } from "@uniprefill/simulator/model/SelectionDraw"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { decodeKeepFile } from "@uniprefill/simulator/scenario/KeepFile"
import { decodeRecordedSelections } from "@uniprefill/simulator/scenario/RecordingSelections"
import { withDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { readFileSync } from "node:fs"
import { gunzipSync } from "node:zlib"
import { describe, expect, it } from "vitest"

const forced = { block: 64, sink: 128, lastQ: 128 }
const schedule: DropSchedule = { ...denseSchedule, dropLayers: [7, 11].map((layer) => ({ layer, p: 0.9 })) }

describe("kept shares", () => {
  it("are the profile's at its lengths, and on lines between", () => {
    expect(keptShare(paperKeep, 131_072, 5, 6)).toBe(0.24)
    expect(keptShare(paperKeep, 500, 0, 6)).toBe(1)
    expect(keptShare(paperKeep, 1_000_000, 0, 6)).toBe(0.74)
    expect(keptShare(paperKeep, 98_304, 5, 6)).toBeCloseTo((0.45 + 0.24) / 2, 12)
    // Three drop layers take the first, a middle and the last of six.
    expect([0, 1, 2].map((drop) => Number(keptShare(paperKeep, 131_072, drop, 3).toFixed(9)))).toEqual([
      0.74, 0.49, 0.24,
    ])
  })

  it("are what drawn selections keep, nested and forced rows included", () => {
    const draw = new SelectionDraw(1, paperKeep, 6)
    const shape = { block: 64, sink: 128, lastQ: 128 }
    const sums = new Float64Array(6)
    const prompts = 200
    for (let request = 0; request < prompts; request++) {
      let rows = 65_536
      for (let segment = 0; segment < 6; segment++) {
        const bitmap = draw.select(request, 65_536, segment, { rows, ...shape })
        const kept = keptRows(bitmap, { rows, ...shape })
        expect(kept).toBeLessThanOrEqual(rows)
        expect(kept).toBeGreaterThanOrEqual(256)
        rows = kept
        sums[segment]! += kept / 65_536 / prompts
      }
    }
    for (const [drop, share] of paperKeep.points[2]!.kept.entries()) expect(sums[drop]).toBeCloseTo(share, 2)
  })

  it("come from files that are checked", () => {
    const file = {
      format: "uniprefill-keep",
      version: 1,
      source: "measured",
      note: "n",
      points: [{ tokens: 1, kept: [0.5, 0.4] }],
    }
    expect(decodeKeepFile("k", file, schedule)).toMatchObject({ source: "measured", accuracy: "unknown" })
    expect(() => decodeKeepFile("k", { ...file, source: "guessed" }, schedule)).toThrow('k: source is "guessed"')
    expect(() => decodeKeepFile("k", { ...file, points: [{ tokens: 1, kept: [0.4, 0.5] }] }, schedule)).toThrow(
      "k: points.0.kept.1 is 0.5; shares are from 0 to 1 and never grow",
    )
    expect(() => decodeKeepFile("k", null, schedule)).toThrow("k: format and version")
  })
})

/** Selections by the real rule over masses of its own: blocks in the middle count more the closer they are to `peak`. */
const selected = (promptTokens: number, peak: number, drops = 2): RecordedPrompt => {
  const bitmaps: Array<Uint32Array> = []
  let shape = { rows: promptTokens, ...forced }
  for (let drop = 0; drop < drops; drop++) {
    const blocks = blockCount(shape)
    const masses = Array.from({ length: blocks }, (_, b) =>
      BigInt(Math.round(1e6 / (1 + Math.abs(b / blocks - peak) * 9))),
    )
    const bitmap = selectBlocks(masses, pToQ32(0.6), "exclusive", shape)
    bitmaps.push(bitmap)
    shape = { ...shape, rows: keptRows(bitmap, shape) }
  }
  return { promptTokens, bitmaps }
}

const chainOf = (recorded: RecordedSelections, random: number, promptTokens: number) => {
  const sets = [promptTokens]
  const bitmaps = Array.from({ length: recorded.drops }, (_, segment) => {
    const shape = { rows: sets.at(-1)!, ...forced }
    const bitmap = recorded.select(random, promptTokens, segment, shape)
    sets.push(keptRows(bitmap, shape))
    return bitmap
  })
  return { sets, bitmaps }
}

describe("recorded selections", () => {
  it("are the recorded bitmaps for a prompt of the recorded length", () => {
    for (const tokens of [1024, 1100, 4097, 20_000]) {
      const prompt = selected(tokens, 0.3)
      expect(chainOf(new RecordedSelections(forced, [prompt]), 5, tokens).bitmaps).toEqual(prompt.bitmaps)
    }
  })

  test.prop({ tokens: fc.integer({ min: 300, max: 60_000 }), random: fc.integer() })(
    "of other lengths keep about the same share of what is not forced, nested and forced rows included",
    ({ tokens, random }) => {
      const recorded = new RecordedSelections(forced, [selected(8192, 0.3)])
      const { sets } = chainOf(recorded, random, tokens)
      const share = (kept: number, of: number) => (of <= 256 ? 1 : (kept - 256) / (of - 256))
      const then = chainOf(recorded, random, 8192).sets
      for (let i = 1; i < sets.length; i++) {
        expect(sets[i]).toBeLessThanOrEqual(sets[i - 1]!)
        expect(sets[i]).toBeGreaterThanOrEqual(Math.min(256, tokens))
        // A block more or less, and its part of a short set.
        const blocks = Math.max(1, (sets[i - 1]! - 256) / 64)
        expect(Math.abs(share(sets[i]!, sets[i - 1]!) - share(then[i]!, then[i - 1]!))).toBeLessThan(
          2.1 / blocks + 0.02,
        )
      }
    },
  )

  it("of other lengths keep blocks at the same places", () => {
    const early = new RecordedSelections(forced, [selected(8192, 0.1)])
    const late = new RecordedSelections(forced, [selected(8192, 0.9)])
    const isKept = (recorded: RecordedSelections, place: number) => {
      const block = Math.floor(place * 1024)
      return (recorded.select(0, 65_536, 0, { rows: 65_536, ...forced })[block >>> 5]! >>> (block & 31)) & 1
    }
    expect([isKept(early, 0.1), isKept(early, 0.9)]).toEqual([1, 0])
    expect([isKept(late, 0.1), isKept(late, 0.9)]).toEqual([0, 1])
  })

  it("come from prompts of about the same length, all of them in turn, or else from the nearest", () => {
    const recorded = new RecordedSelections(forced, [selected(2000, 0.2), selected(9000, 0.4), selected(10_000, 0.8)])
    const drawn = (tokens: number) =>
      new Set(Array.from({ length: 64 }, (_, random) => chainOf(recorded, random * 977, tokens).sets.join()))
    expect(drawn(9500).size).toBe(2)
    expect(drawn(2000).size).toBe(1)
    expect(drawn(100_000).size).toBe(1)
    expect(chainOf(recorded, 1, 10_000_000).sets[1]! / 10_000_000).toBeCloseTo(recorded.points[2]!.kept[0]!, 1)
  })

  it("are drawn from the seed and the request alone, one recorded prompt for all drop layers", () => {
    const recorded = new RecordedSelections(forced, [selected(9000, 0.4), selected(10_000, 0.8)])
    const profile: KeepProfile = {
      source: "recorded",
      note: "",
      accuracy: "unknown",
      points: recorded.points,
      recorded,
    }
    const draw = (seed: number, request: number) =>
      new SelectionDraw(seed, profile, 2).select(request, 9500, 0, { rows: 9500, ...forced })
    const all = Array.from({ length: 32 }, (_, request) => draw(1, request).join())
    expect(Array.from({ length: 32 }, (_, request) => draw(1, 31 - request).join()).toReversed()).toEqual(all)
    expect(new Set(all).size).toBe(2)
    expect(Array.from({ length: 32 }, (_, request) => draw(2, request).join())).not.toEqual(all)
  })
})

/** A recording as the executor writes it, of prompts in slots. */
const recording = (prompts: ReadonlyArray<RecordedPrompt>, change: Record<string, unknown> = {}): Array<string> => {
  const header = {
    format: "uniprefill-recording",
    version: 1,
    schedule: {
      rule: "exclusive",
      dropLayers: [
        { layer: 7, p: 0.6 },
        { layer: 10, p: 0.6 },
      ],
      ...forced,
      ...change,
    },
  }
  return [
    header,
    ...prompts.map(({ promptTokens }) => ({
      e: "submit",
      now: 0,
      submission: { promptLength: promptTokens, drops: true },
    })),
    // Every slot's first selection, then every slot's second.
    ...[0, 1].map((segment) => ({
      e: "done",
      step: segment + 1,
      selections: prompts.flatMap(({ bitmaps }, slot) => record(slot, segment, 0, bitmaps[segment]!)),
    })),
  ].map((line) => JSON.stringify(line))
}
const record = (slot: number, segment: number, flags: number, bitmap: Uint32Array) => [
  slot,
  segment,
  flags,
  bitmap.length,
  ...Int32Array.from(bitmap),
]

describe("a recording", () => {
  const prompts = [selected(3000, 0.2), selected(1025, 0.5), selected(9000, 0.8)]
  const decode = (lines: ReadonlyArray<string>) => decodeRecordedSelections("r", lines.join("\n"))

  it("gives the selections of its prompts, whichever slot they were in", () => {
    const recorded = decode(recording(prompts))
    expect([recorded.prompts, recorded.shortest, recorded.longest, recorded.drops]).toEqual([3, 1025, 9000, 2])
    for (const prompt of prompts) expect(chainOf(recorded, 0, prompt.promptTokens).bitmaps).toEqual(prompt.bitmaps)
  })

  it("counts a preempted prompt once, and leaves out what was kept for want of finite scores", () => {
    const [first] = prompts
    const again = [0, 1].map((segment) => ({
      e: "done",
      step: 3 + segment,
      selections: [
        ...record(2, segment, 2, first!.bitmaps[segment]!),
        ...record(1, segment, 1, first!.bitmaps[segment]!),
      ],
    }))
    expect(decode([...recording(prompts), ...again.map((line) => JSON.stringify(line))]).prompts).toBe(3)
  })

  it("that cannot be understood is refused with file and line", () => {
    const lines = recording(prompts)
    expect(() => decode(lines.slice(0, 1))).toThrow("r holds no selections")
    expect(() => decode(["{}"])).toThrow("r line 1: format and version are [null,null]")
    expect(() => decode(recording(prompts, { rule: "reference" }))).toThrow(
      "r line 1: selections by the rule reference",
    )
    expect(() => decode([...lines.slice(0, 4), lines[5]!])).toThrow(
      "r line 5: slot 0 selects after segment 1 out of turn",
    )
    expect(() => decode([lines[0]!, ...lines.slice(2)])).toThrow("r line 5: the selections of slot 0 fit no prompt")
    expect(() => decode([...lines.slice(0, 5), lines[5]!.slice(0, 40)])).toThrow("r line 6: not JSON")
  })

  // Header, submissions and results with selections of 24 prompts with a planted statement, served by needle-10m-deep on the CPU.
  it("of a real run on the CPU gives nested sets of the schedule's three drop layers", () => {
    const file = new URL("needle.recording.jsonl.gz", import.meta.url)
    const recorded = decodeRecordedSelections("needle", gunzipSync(readFileSync(file)).toString())
    expect([recorded.prompts, recorded.drops, recorded.shortest, recorded.longest]).toEqual([24, 3, 1264, 7810])
    const long = recorded.points.filter(({ tokens }) => tokens > 5000)
    const mean = [0, 1, 2].map((drop) => long.reduce((sum, { kept }) => sum + kept[drop]! / long.length, 0))
    // What was measured for this schedule on other text of 8,192 tokens.
    for (const [drop, share] of [0.56, 0.37, 0.26].entries()) expect(Math.abs(mean[drop]! - share)).toBeLessThan(0.05)
    for (const { kept } of recorded.points) expect(kept).toEqual(kept.toSorted((a, b) => b - a))
  })
})

describe("a scenario's keep", () => {
  const scenario = withDefaults({
    keep: "run.recording.jsonl.gz",
    schedule: "s.json",
    workload: { requests: 40, ratePerSecond: 4, promptTokens: "uniform:500-20000", outputTokens: 4 },
  })
  const scheduleFile = (p: number, layers = [7, 11]) =>
    JSON.stringify({
      format: "uniprefill-schedule",
      version: 1,
      dropLayers: layers.map((layer) => ({ layer, p })),
      minPromptTokens: 1024,
    })
  const recorded = recording([selected(3000, 0.2), selected(9000, 0.8)]).join("\n")

  it("is a recording: its sets are what the run keeps, and its source is said", () => {
    const read = (file: string) => (file === "s.json" ? scheduleFile(0.6) : recorded)
    const { setup, workload } = buildExperiment(scenario, read)
    expect(setup.keep).toMatchObject({ source: "recorded", accuracy: "unknown" })
    expect(setup.keep.note).toMatch(
      /^selections of 2 prompts of 3000 to 9000 tokens in run\.recording\.jsonl\.gz; .*OUTSIDE its lengths of 3000 to 9000 tokens: \d+ of \d+ prompts/,
    )
    const sets = new Map<number, Array<number>>()
    const simulation = new Simulation(setup, workload, {
      selected: (row, segment, kept) => sets.set(row, [...(sets.get(row) ?? []), segment, kept]),
    })
    simulation.advance()
    expect(sets.size).toBeGreaterThan(20)
    for (const [row, found] of sets) {
      const tokens = workload.promptTokens[row]!
      const drawn = [0, 1].map((random) =>
        chainOf(setup.keep.recorded!, random, tokens)
          .sets.slice(1)
          .flatMap((kept, i) => [i, kept]),
      )
      expect(drawn).toContainEqual(found)
    }
  })

  it("is refused where the recording has another number of drop layers", () => {
    const read = (file: string) => (file === "s.json" ? scheduleFile(0.6, [7, 11, 15]) : recorded)
    expect(() => buildExperiment(scenario, read)).toThrow("has selections of 2 drop layers; the schedule has 3")
  })

  it("is a calibration by p, between whose measurements lies the schedule's", () => {
    const file = {
      format: "uniprefill-keep",
      version: 1,
      source: "measured",
      note: "held-out text",
      accuracy: [{ p: 0.9, text: "0.767 dense, 0.767 dropping" }],
      points: [
        { tokens: 4096, p: 0.8, kept: [0.4, 0.2] },
        { tokens: 4096, p: 0.9, kept: [0.6, 0.4] },
        { tokens: 8192, p: 0.8, kept: [0.3, 0.1] },
        { tokens: 8192, p: 0.9, kept: [0.5, 0.3] },
      ],
    }
    const at = (p: number) =>
      decodeKeepFile("k", file, { ...schedule, dropLayers: [7, 11].map((layer) => ({ layer, p })) })
    expect(at(0.9)).toMatchObject({
      source: "measured",
      note: "held-out text",
      accuracy: "0.767 dense, 0.767 dropping",
    })
    expect([0, 1].map((drop) => keptShare(at(0.9), 4096, drop, 2))).toEqual([0.6, 0.4])
    const between = at(0.85)
    expect(between.accuracy).toBe("unknown")
    expect([0, 1].map((drop) => Number(keptShare(between, 6144, drop, 2).toFixed(9)))).toEqual([0.45, 0.25])
    expect(at(0.95).note).toBe(
      "held-out text; OUTSIDE the calibrated range: p 0.95 at 4096 tokens, measured 0.8 to 0.9, p 0.95 at 8192 tokens, measured 0.8 to 0.9",
    )
    expect(keptShare(at(0.95), 4096, 0, 2)).toBe(0.6)
    expect(keptShare(at(0.5), 4096, 0, 2)).toBe(0.4)
    const mixed = decodeKeepFile("k", file, {
      ...schedule,
      dropLayers: [
        { layer: 7, p: 0.8 },
        { layer: 11, p: 0.9 },
      ],
    })
    expect([mixed.accuracy, keptShare(mixed, 8192, 0, 2), keptShare(mixed, 8192, 1, 2)]).toEqual(["unknown", 0.3, 0.3])
    const broken =
      (points: unknown, accuracy: unknown = file.accuracy) =>
      () =>
        decodeKeepFile("k", { ...file, points, accuracy }, schedule)
    expect(
      broken([
        { tokens: 1, p: 0.9, kept: [1, 1] },
        { tokens: 1, p: 0.9, kept: [1, 1] },
      ]),
    ).toThrow("points.1.p is 0.9, expected a number above 0.9")
    expect(
      broken([
        { tokens: 1, p: 0.9, kept: [1, 1] },
        { tokens: 2, kept: [1, 1] },
      ]),
    ).toThrow("points.1.p: either every point has a p or none")
    expect(broken([{ tokens: 1, p: 2, kept: [1, 1] }])).toThrow("points.0.p is 2, not in 0 to 1")
    expect(broken([{ tokens: 1, p: 0.9, kept: [1] }])).toThrow(
      "points.0.kept has 1 shares; the schedule has 2 drop layers",
    )
    expect(broken(file.points, "good")).toThrow("accuracy is not a list of {p, text}")
  })
})
