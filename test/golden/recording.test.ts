import { mkdtemp, rm, writeFile } from "node:fs/promises"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gzipSync } from "node:zlib"
import { scaledCalibration } from "@uniprefill/cost-model/Calibration"
import type { RecordedEvent, RecordingHeader } from "@uniprefill/recording/Recording"
import { decodeRecording, encodeLine, type Recording } from "@uniprefill/recording/RecordingCodec"
import { openRecording, readRecording } from "@uniprefill/recording/RecordingFile"
import { replay } from "@uniprefill/recording/Replay"
import { Memory } from "@uniprefill/scheduler/Memory"
import { Reservations } from "@uniprefill/scheduler/Reservations"
import { Ranking } from "@uniprefill/scheduler/Ranking"
import { SlabPool } from "@uniprefill/scheduler/SlabPool"
import { Effect } from "effect"
import { afterEach, beforeAll, describe, expect, it, vi } from "vitest"

/** Two hundred requests on the native CPU executor; see makeRecording.ts. */
const file = fileURLToPath(new URL("cpu.recording.jsonl.gz", import.meta.url))
let recording: Recording

beforeAll(async () => {
  recording = await Effect.runPromise(readRecording(file))
})

afterEach(() => {
  vi.restoreAllMocks()
  vi.unstubAllEnvs()
})

const run = () => replay(recording.header, recording.events)
const eventsOf = (kind: RecordedEvent["e"]) => recording.events.filter(({ e }) => e === kind).length

describe("a recorded CPU run", () => {
  it("holds what makes replay hard", () => {
    expect(eventsOf("submit")).toBe(200)
    expect(eventsOf("abort")).toBeGreaterThan(10)
    // Stop strings are found in text, when a step's tokens have been taken.
    expect(eventsOf("finish")).toBeGreaterThan(10)
    expect(eventsOf("page")).toBeGreaterThan(10)
    const several = recording.events.filter((event) => event.e === "submit" && (event.submission.answers ?? 1) > 1)
    expect(several.length).toBeGreaterThan(20)
    // Forks that go on from a page which is not full.
    const copying = recording.events.filter((event) => event.e === "plan" && event.sections.copies !== undefined)
    expect(copying.length).toBeGreaterThan(10)
    let inFlight = 0
    let most = 0
    for (const { e } of recording.events) {
      if (e === "plan") most = Math.max(most, ++inFlight)
      else if (e === "done") inFlight--
    }
    expect(most).toBe(2)
    const { preemptions, prefixHits } = run()
    expect(preemptions).toBeGreaterThanOrEqual(5)
    expect(prefixHits).toBeGreaterThan(5000)
  })

  it("replays plan by plan", () => {
    expect(run()).toMatchObject({ difference: null, plans: eventsOf("plan") })
  })

  it("takes its costs from the recording, whatever is installed on the machine", async () => {
    const { costs } = recording.header
    const slower = { ...costs, calibration: scaledCalibration(costs.calibration, 0.1) }
    const folder = await mkdtemp(join(tmpdir(), "costs-"))
    try {
      await writeFile(join(folder, "slow.json"), JSON.stringify(slower.calibration))
      vi.stubEnv("UNIPREFILL_COST_MODEL", join(folder, "slow.json"))
      expect(run().difference).toBeNull()
    } finally {
      await rm(folder, { recursive: true })
    }
    // It is not that costs do not matter: in the recording they do.
    expect(replay({ ...recording.header, costs: slower }, recording.events).difference).not.toBeNull()
  })

  it("holds no text, no tokens, no names", () => {
    const lengths = new Set<string>()
    for (const event of recording.events) for (const key of Object.keys(event)) lengths.add(`${event.e}.${key}`)
    expect([...lengths].filter((key) => /token|text|prompt(?!Length)/i.test(key))).toEqual([])
    const keys = recording.events.flatMap((event) => (event.e === "submit" ? (event.submission.pageKeys ?? []) : []))
    expect(keys.filter((key) => !/^[0-9a-z]+-[0-9a-z]+$/.test(key))).toEqual([])
    expect(new Set(keys).size).toBeGreaterThan(100)
  })
})

describe("a scheduler that decides otherwise", () => {
  it("is told at which step and where: another slab", () => {
    // oxlint-disable-next-line typescript/unbound-method -- called with its own `this` below
    const { take } = SlabPool.prototype
    let taken = 0
    let swapped = false
    vi.spyOn(SlabPool.prototype, "take").mockImplementation(function (this: SlabPool, out, at, count) {
      take.call(this, out, at, count)
      taken += count
      if (taken < 1000 || swapped || this.free === 0) return
      swapped = true
      const other = new Int32Array(1)
      take.call(this, other, 0, 1)
      this.release(out, at, at + 1, 0)
      out[at] = other[0]!
    })
    const { difference, plans } = run()
    expect(difference).toMatchObject({ section: "grants", detail: expect.stringMatching(/hash [0-9a-f]{8} then, /) })
    expect(difference!.step).toBe(plans + 1)
    expect(plans).toBeGreaterThan(10)
  })

  it("is told of an admission one step late", () => {
    // oxlint-disable-next-line typescript/unbound-method -- called with its own `this` below
    const { canAdmit } = Memory.prototype
    vi.spyOn(Memory.prototype, "canAdmit").mockImplementation(function (this: Memory, request) {
      return canAdmit.call(this, request) && this.unreserved > 100
    })
    expect(run().difference).toMatchObject({ step: expect.any(Number), detail: expect.any(String) })
  })

  it("is told of a victim chosen otherwise", () => {
    // oxlint-disable-next-line typescript/unbound-method -- called with its own `this` below
    const { isBehind } = Ranking.prototype
    vi.spyOn(Ranking.prototype, "isBehind").mockImplementation(function (this: Ranking, ...args) {
      return !isBehind.apply(this, args)
    })
    expect(run().difference).toMatchObject({ step: expect.any(Number) })
  })

  it("is told of a broken invariant as of a plan that was not made", () => {
    vi.spyOn(Reservations.prototype, "settle").mockImplementation(() => {})
    const { difference, plans } = run()
    expect(difference).toEqual({ step: plans + 1, section: null, detail: expect.stringMatching(/within the reservation/) })
  })

  it("is told of a plan too many and one too few", () => {
    const { header, events } = recording
    const plans = events.filter(({ e }) => e === "plan")
    const without = (index: number) => events.filter((event) => event !== plans[index])
    expect(replay(header, without(plans.length - 1)).difference).toEqual({
      step: plans.length,
      section: null,
      detail: "this step is planned now and was not then",
    })
    const end = events.findIndex((event) => event.e === "done" && event.step === plans.length)
    const idle = { e: "plan", step: plans.length + 1, sections: {} } as const
    expect(replay(header, [...events.slice(0, end + 1), idle]).difference).toEqual({
      step: plans.length + 1,
      section: null,
      detail: "this step was planned then and is not now",
    })
  })
})

describe("a recording file", () => {
  const text = (lines: ReadonlyArray<RecordingHeader | RecordedEvent | object>) =>
    lines.map((line) => encodeLine(line as RecordedEvent)).join("\n")

  it("comes back as it was written", async () => {
    const folder = await mkdtemp(join(tmpdir(), "recording-"))
    try {
      const copy = join(folder, "copy.recording.jsonl.gz")
      await Effect.runPromise(
        Effect.scoped(
          Effect.gen(function* () {
            const writer = yield* openRecording(copy)
            writer.write(recording.header)
            for (const event of recording.events) writer.write(event)
            expect(writer.failure()).toBeNull()
          }),
        ),
      )
      expect(await Effect.runPromise(readRecording(copy))).toEqual(recording)
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  it("that cannot be written or read is named", async () => {
    const nowhere = join(tmpdir(), "no such folder", "x.recording.jsonl.gz")
    await expect(Effect.runPromise(Effect.scoped(openRecording(nowhere)))).rejects.toThrow(/no such folder.*ENOENT/)
    await expect(Effect.runPromise(readRecording(nowhere))).rejects.toThrow(/no such folder.*ENOENT/)
    const folder = await mkdtemp(join(tmpdir(), "recording-"))
    try {
      const cut = join(folder, "cut.recording.jsonl.gz")
      await writeFile(cut, gzipSync(text([recording.header, recording.events[0]!]).slice(0, -5)))
      await expect(Effect.runPromise(readRecording(cut))).rejects.toThrow(/cut\.recording.*line 2: is not JSON/)
    } finally {
      await rm(folder, { recursive: true })
    }
  })

  it("that is malformed is refused with line and field", () => {
    const { header } = recording
    expect(() => decodeRecording("")).toThrow(/line 1: is empty/)
    expect(() => decodeRecording(text([{ ...header, version: header.version + 1 }]))).toThrow(/line 1: .*version/s)
    expect(() => decodeRecording(text([{ ...header, limits: { ...header.limits, slabs: -1 } }]))).toThrow(
      /line 1: .*slabs/s,
    )
    expect(() => decodeRecording(text([header, { e: "tick", now: "late" }]))).toThrow(/line 2: .*now/s)
    expect(() => decodeRecording(text([header, { e: "sleep" }]))).toThrow(/line 2: /)
  })

  it("made with a policy from a module says so", () => {
    const header = { ...recording.header, policy: { name: "short-first", options: {} } }
    expect(() => replay(header, [])).toThrow(/policy short-first; there are fcfs, /)
    expect(replay(header, recording.events, { name: "short-first" }).difference).toBeNull()
  })
})
