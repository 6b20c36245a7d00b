import { memoryPixels, memoryTrack } from "@uniprefill/studio/layout/Memory"
import {
  type RequestOrder,
  requestIndex,
  requestOrder,
  rowsInView,
  sampled,
  SpanKind,
  spansOf,
} from "@uniprefill/studio/layout/RequestRows"
import { statusNames } from "@uniprefill/studio/layout/StatusNames"
import { stepNear, stepPixels, stepsAt, stepTracks } from "@uniprefill/studio/layout/StepTrack"
import { keptShares, paintStrip } from "@uniprefill/studio/layout/Strip"
import { statusNames as simulatorsNames } from "@uniprefill/simulator/timetravel/RequestColumns"
import { describe, expect, it } from "vitest"
import { simulatedResult } from "./Results.ts"

const { timeline, requests, meta } = await simulatedResult({
  replicas: 2,
  workload: { requests: 80, ratePerSecond: 100, promptTokens: "uniform:500-5000", outputTokens: "uniform:300-900" },
  engine: { slots: 16, slabs: 2000 },
})
const { steps } = timeline
const tracks = stepTracks(steps, meta.replicas, meta.segmentLayers)
const whole = { from: 0, to: tracks[0]!.end.at(-1)! }

describe("a step track", () => {
  it("has every step of its replica, in order", () => {
    expect(tracks.reduce((sum, track) => sum + track.count, 0)).toBe(steps.count)
    for (const { index, replica, start, end } of tracks) {
      for (let i = 0; i < index.length; i++) {
        expect(steps.replica[index[i]!]).toBe(replica)
        expect(start[i]).toBeGreaterThanOrEqual(end[i - 1] ?? 0)
      }
    }
  })

  it("shares every pixel's time as its steps do, at every zoom", () => {
    const track = tracks[1]!
    for (const span of [whole.to, 3e6, 40_000]) {
      const view = { from: whole.to * 0.3, to: whole.to * 0.3 + span }
      const width = 97
      const { shares } = stepPixels(track, view, width)
      for (let x = 0; x < width; x++) {
        const [from, to] = [view.from + (x / width) * span, view.from + ((x + 1) / width) * span]
        let busy = 0
        for (let i = 0; i < track.count; i++)
          busy += Math.max(0, Math.min(to, track.end[i]!) - Math.max(from, track.start[i]!))
        const sum = shares.reduce((total, share) => total + share[x]!, 0)
        expect(sum).toBeCloseTo(busy / (to - from), 4)
      }
    }
  })

  it("names the steps that run in a pixel", () => {
    const track = tracks[0]!
    const view = { from: whole.to * 0.4, to: whole.to * 0.4 + 200_000 }
    const pixels = stepPixels(track, view, 50)
    for (let x = 0; x < 50; x++) {
      const [low, high] = stepsAt(pixels, track, view, 50, x)
      const [from, to] = [view.from + x * 4000, view.from + (x + 1) * 4000]
      const found: Array<number> = []
      for (let i = 0; i < track.count; i++) if (track.end[i]! > from && track.start[i]! < to) found.push(i)
      expect(Array.from({ length: high - low }, (_, i) => low + i)).toEqual(found)
    }
  })

  it("finds the step at a time, and the nearest one between two", () => {
    const track = tracks[0]!
    expect(stepNear(track, track.start[7]! + 1)).toBe(7)
    expect(stepNear(track, -5)).toBe(0)
    expect(stepNear(track, whole.to * 2)).toBe(track.count - 1)
    expect(stepNear(stepTracks({ ...steps, count: 0 }, 1, meta.segmentLayers)[0]!, 5)).toBe(-1)
  })
})

describe("memory", () => {
  it("is what its samples say, and never more than all", () => {
    const track = memoryTrack(timeline.memory, meta.memoryNames, meta.replicas, meta.slabs)
    expect(track.names).toContain("carry")
    expect(track.names.filter((name) => name.startsWith("segment"))).toHaveLength(meta.segmentLayers.length)
    const shares = memoryPixels(track, whole, 300)
    let most = 0
    for (let x = 0; x < 300; x++)
      most = Math.max(
        most,
        shares.reduce((sum, share) => sum + share[x]!, 0),
      )
    expect(most).toBeGreaterThan(0.3)
    expect(most).toBeLessThanOrEqual(1)
  })
})

describe("requests", () => {
  const index = requestIndex(timeline, requests)

  it("do one thing after the other, from their arrival to their last token", () => {
    let preempted = 0
    for (let row = 0; row < requests.count; row++) {
      let at = requests.arrival[row]!
      const kinds: Array<number> = []
      spansOf(index, row, { from: -1, to: 1e15 }, (kind, from, to) => {
        expect(from).toBe(at)
        at = to
        kinds.push(kind)
      })
      expect(at).toBe(requests.lastToken[row])
      expect(kinds[0]).toBe(SpanKind.waiting)
      expect(kinds.filter((kind) => kind >= SpanKind.prefill).length).toBeGreaterThan(0)
      expect(kinds.includes(SpanKind.decode)).toBe(requests.outputs[row]! > 1)
      const gaps = kinds.filter((kind) => kind === SpanKind.preempted).length
      expect(gaps > 0).toBe(requests.preemptions[row]! > 0)
      preempted += gaps
    }
    expect(preempted).toBeGreaterThan(0)
  })

  it("are left out where they lie outside of the view", () => {
    const order: RequestOrder = requestOrder(index, "arrival", "none", statusNames)
    const view = { from: whole.to * 0.5, to: whole.to * 0.55 }
    const inView = rowsInView(order, index, view)
    expect(inView.length).toBeGreaterThan(0)
    expect(inView.length).toBeLessThan(order.rows.length)
    for (const row of order.rows) {
      let drawn = 0
      spansOf(index, row, view, () => drawn++)
      expect(drawn > 0).toBe(inView.includes(row))
    }
  })

  it("are sorted by what is asked for, and grouped", () => {
    const ttft = (row: number) => requests.firstToken[row]! - requests.arrival[row]!
    const { rows } = requestOrder(index, "TTFT", "none", statusNames)
    for (let i = 1; i < rows.length; i++) expect(ttft(rows[i]!)).toBeLessThanOrEqual(ttft(rows[i - 1]!))
    const { groups, rows: grouped } = requestOrder(index, "prompt", "replica", statusNames)
    expect(groups.map(({ label }) => label)).toEqual(["replica 0", "replica 1"])
    expect(groups.reduce((sum, { count }) => sum + count, 0)).toBe(grouped.length)
    for (const [g, { first, count }] of groups.entries()) {
      for (let i = first; i < first + count; i++) {
        expect(requests.replica[grouped[i]!]).toBe(g)
        expect(requests.promptTokens[grouped[i]!]).toBeLessThanOrEqual(
          requests.promptTokens[grouped[Math.max(first, i - 1)]!]!,
        )
      }
    }
    const labels = requestOrder(index, "arrival", "prompt length", statusNames).groups.map(({ label }) => label)
    expect(labels).toEqual(["below 1K tokens", "1K to 4K tokens", "4K to 16K tokens"])
  })

  it("are thinned evenly, the selected one kept", () => {
    const rows = Uint32Array.from({ length: 1000 }, (_, i) => i)
    const few = sampled(rows, 10, 555)
    expect([...few]).toEqual([0, 100, 200, 300, 400, 555, 600, 700, 800, 900])
    expect(sampled(rows, 2000, -1)).toBe(rows)
  })

  it("have the simulator's names for what became of them", () => {
    const words = simulatorsNames.map((name) => name.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`))
    expect(statusNames).toEqual(words)
  })
})

describe("a strip of kept blocks", () => {
  const kept = {
    block: 64,
    promptTokens: 256,
    rows: [256, 128, 64],
    kept: [Uint8Array.of(64, 0, 0, 64), Uint8Array.of(32, 0, 0, 32)],
  }

  it("has the share of rows kept in every part of the prompt", () => {
    expect([...keptShares(kept, 0, 8)]).toEqual([1, 1, 0, 0, 0, 0, 1, 1])
    expect([...keptShares(kept, 1, 2)]).toEqual([0.25, 0.25])
    expect([...keptShares(kept, 0, 1)]).toEqual([0.5])
  })

  it("has a line for each set, the whole prompt first", () => {
    const pixels = paintStrip(kept, 4, 1, 0, ["#ff0000", "#00ff00", "#0000ff"], "#000000")
    expect(pixels.height).toBe(3)
    const hex = Array.from(pixels.data, (pixel) => (pixel >>> 0).toString(16))
    expect(hex).toEqual([
      "ff0000ff",
      "ff0000ff",
      "ff0000ff",
      "ff0000ff",
      "ff00ff00",
      "ff000000",
      "ff000000",
      "ff00ff00",
      "ff800000",
      "ff000000",
      "ff000000",
      "ff800000",
    ])
  })
})
