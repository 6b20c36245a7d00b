import { randomKeep } from "@uniprefill/executor/simulated/KeepModel"
import { referenceSpec } from "@uniprefill/executor/reference/ReferenceModel"
import { SimulatedDevice } from "@uniprefill/executor/simulated/SimulatedDevice"
import { type DropSchedule, denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import type { LayerKind } from "@uniprefill/model/ModelSpec"
import { keptRows } from "@uniprefill/model/Selection"
import { describe, expect, it } from "vitest"
import { type Section, StepPlan } from "@uniprefill/scheduler/StepPlan"
import { selectionsOf } from "./PlanWriter.ts"

const schedule: DropSchedule = { ...denseSchedule, dropLayers: [{ layer: 0, p: 0.5 }], sink: 64, lastQ: 64 }

const runnerOf = (layers: ReadonlyArray<LayerKind>, dropping: DropSchedule) => {
  const layout = makeKvLayout(referenceSpec({ layers }), dropping, {
    pageSize: 64,
    kvElementBytes: 2,
    carryElementBytes: 4,
  })
  const token = (key: number, index: number) => ({ token: 10 * key + index, stop: false })
  const device = new SimulatedDevice(layout, dropping, 4, randomKeep(1, [0.3]), token)
  const opens: Array<number> = []
  let stepId = 0
  const run = (named: Partial<Record<Section, ReadonlyArray<number>>>) => {
    const plan = new StepPlan()
    plan.clear(++stepId)
    for (const [name, values] of Object.entries(named)) plan[name as Section].pushAll(values)
    plan.opens.pushAll(opens.splice(0))
    return device.prepare(plan)
  }
  const open = (slot: number, promptLength: number, drops: boolean) => {
    device.putContent(slot + 1, { key: slot + 1, promptLength, outputs: 0, drops, bitmaps: [], stopAt: -1 })
    opens.push(slot, slot + 1)
  }
  return { device, layout, run, open }
}

describe("SimulatedDevice", () => {
  it("goes on from another slot's prefill with its kept rows, and draws tokens of its own", () => {
    const { device, layout, run, open } = runnerOf(["full", "full"], schedule)
    for (const slot of [0, 1]) open(slot, 1000, true)
    const first = run({ items: [0, 0, 1000, 0, 1], samples: [0, 0, 0, 1] })
    expect(first.tokens.toArray()).toEqual([0, 10, 0, 1, 20, 0])
    const [[, , , bitmap]] = selectionsOf(first) as [[number, number, number, Uint32Array]]
    const kept = keptRows(bitmap, { ...schedule, rows: 1000 })
    expect(kept).toBeLessThan(1000)

    const { full, carry } = layout.segments[0]!
    const maps = Array.from({ length: 15 }, (_, page) => [1, full, page, 1, carry, 100 + page]).flat()
    expect(run({ maps, joins: [0, -1, 1, -1] }).tokens.toArray()).toEqual([0, 11, 0, 1, 21, 0])
    expect([...device.load.decodeKeys]).toEqual([2 * 1001, 2 * (kept + 1)])
    expect(run({ leaves: [0], closes: [0] }).tokens.toArray()).toEqual([1, 22, 0])
    expect([...device.load.decodeKeys]).toEqual([1002, kept + 2])
  })
})
