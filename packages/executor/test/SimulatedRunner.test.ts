import { randomKeep } from "@uniprefill/executor/KeepModel"
import { naiveSpec } from "@uniprefill/executor/NaiveModel"
import { SimulatedRunner } from "@uniprefill/executor/SimulatedRunner"
import { type DropSchedule, denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import type { LayerKind } from "@uniprefill/model/ModelSpec"
import { keptRows } from "@uniprefill/model/Selection"
import { describe, expect, it } from "vitest"
import { type Section, StepPlan } from "@uniprefill/scheduler/StepPlan"
import { selectionsOf } from "./PlanWriter.ts"

const schedule: DropSchedule = { ...denseSchedule, dropLayers: [{ layer: 0, p: 0.5 }], sink: 64, lastQ: 64 }

const runnerOf = (layers: ReadonlyArray<LayerKind>, dropping: DropSchedule) => {
  const layout = makeKvLayout(naiveSpec({ layers }), dropping, {
    pageSize: 64,
    kvElementBytes: 2,
    carryElementBytes: 4,
  })
  const token = (key: number, index: number) => ({ token: 10 * key + index, stop: false })
  const runner = new SimulatedRunner({ layout, schedule: dropping, keep: randomKeep(1, [0.3]), token })
  let stepId = 0
  const run = (named: Partial<Record<Section, ReadonlyArray<number>>>) => {
    const plan = new StepPlan()
    plan.clear(++stepId)
    for (const [name, values] of Object.entries(named)) plan[name as Section].pushAll(values)
    return runner.step(plan)
  }
  const open = (slot: number, promptLength: number, drops: boolean) =>
    runner.openSlot({ slot, key: slot + 1, promptLength, outputs: 0, drops, bitmaps: [] })
  return { runner, layout, run, open }
}

describe("SimulatedRunner", () => {
  it("goes on from another slot's prefill with its kept rows, and draws tokens of its own", () => {
    const { runner, layout, run, open } = runnerOf(["full", "full"], schedule)
    for (const slot of [0, 1]) open(slot, 1000, true)
    const first = run({ items: [0, 0, 1000, 0, 1], samples: [0, 0, 0, 1] })
    expect(first.tokens.toArray()).toEqual([0, 10, 0, 1, 20, 0])
    const [[, , , bitmap]] = selectionsOf(first) as [[number, number, number, Uint32Array]]
    const kept = keptRows(bitmap, { ...schedule, rows: 1000 })
    expect(kept).toBeLessThan(1000)

    const { full, carry } = layout.segments[0]!
    const maps = Array.from({ length: 15 }, (_, page) => [1, full, page, 1, carry, 100 + page]).flat()
    expect(run({ maps, joins: [0, -1, 1, -1] }).tokens.toArray()).toEqual([0, 11, 0, 1, 21, 0])
    expect([...runner.load.decodeKeys]).toEqual([2 * 1001, 2 * (kept + 1)])
    runner.closeSlot(0)
    expect(run({}).tokens.toArray()).toEqual([1, 22, 0])
    expect([...runner.load.decodeKeys]).toEqual([1002, kept + 2])
  })

  it("begins behind the pages of a hit, those before a window included", () => {
    const dense = runnerOf(["full", "sliding"], denseSchedule)
    dense.open(0, 300, false)
    const { full, sliding } = dense.layout.segments[0]!
    const pages = {
      windowFrees: [0, sliding, 2],
      maps: [0, full, 0, 0, full, 1, 0, full, 2, 0, full, 3, 0, sliding, 4],
    }
    expect(() => dense.run({ ...pages, items: [0, 256, 44, 0, 0] })).not.toThrow()

    // Without a full layer the window's table alone says how far the hit goes.
    const windows = runnerOf(["sliding", "sliding"], denseSchedule)
    windows.open(0, 300, false)
    const slabs = windows.layout.tables[0]!.slabsPerPage
    const maps = Array.from({ length: 2 * slabs }, (_, slab) => [0, 0, slab]).flat()
    const items = [0, 256, 44, 0, 0]
    expect(windows.run({ windowFrees: [0, 0, 2], maps, items, samples: [0, 0] }).tokens.length).toBe(3)
    // A window that moves on brings nothing.
    windows.run({ windowFrees: [0, 0, 1], joins: [0, -1] })
    expect([...windows.runner.load.decodeKeys]).toEqual([301])
  })
})
