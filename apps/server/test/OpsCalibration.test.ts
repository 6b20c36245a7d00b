import type { Calibration, LinkCurve } from "@uniprefill/cost-model/Calibration"
import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { operationWork } from "@uniprefill/cost-model/OperationWork"
import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { rankLayout } from "@uniprefill/placement/RankLayout"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { modelPresets } from "@uniprefill/simulator/model/ModelPresets"
import { calibrationFrom, type FitCosts, type OpsMeasurements, type TimedStep } from "uniprefill/bench/OpsCalibration"
import { expect, it } from "vitest"

/** The device that is measured. Whole bytes and FLOP a µs, so that times to whole µs say nearly all. */
const device: Calibration = {
  format: "uniprefill-calibration",
  version: 3,
  device: "a device",
  source: "measured",
  note: "",
  gemm: [
    { at: 512, teraFlops: 400 },
    { at: 8192, teraFlops: 700 },
  ],
  attention: [{ at: 2048, teraFlops: 500 }],
  copyTeraBytes: 2.4,
  keyTeraBytes: 2.7,
  stepMicros: 300,
  itemMicros: 200,
}
const link: LinkCurve = {
  library: "peer-to-peer",
  ranks: 2,
  source: "measured",
  points: [
    { bytes: 8192, micros: 20 },
    { bytes: 1 << 26, micros: 900 },
  ],
}
const { spec } = modelPresets.get("llama-3.1-8b")!.shape
const elements = { pageSize: 128, kvElementBytes: 2, carryElementBytes: 2 }

const costsOf = (ranks: number): FitCosts => ({
  work: operationWork(inSixteenBits(spec), rankLayout(spec, ranks, denseSchedule, elements), ranks),
  link: ranks === 1 ? null : link,
  lastQ: 128,
  maxRowsPerStep: 8192,
})

const prompts = (items: number, rows: number, before = 0): StepLoad => {
  const load = new StepLoad(1)
  load.items = items
  for (let i = 0; i < items; i++) load.addRows(1, 0, before, rows, before + rows, before)
  return load
}
const decodes = (rows: number, keys: number): StepLoad => {
  const load = new StepLoad(1)
  load.decodeRows = rows
  load.decodeKeys[0] = rows * keys
  return load
}

it.each([1, 2])("predicts the steps it was made of, of %d ranks, all-reduces counted once", (ranks) => {
  const costs = costsOf(ranks)
  const real = new DeviceCostModel({ ...costs, calibration: device })
  const timed = (load: StepLoad): TimedStep => ({ load, micros: real.stepMicros(load) })
  const measured: OpsMeasurements = {
    device: device.device,
    note: "",
    fittedTo: { model: "llama-3.1-8b", tensorParallel: ranks },
    copy: { bytes: 2.4e9, micros: 1000 },
    linear: [512, 2048, 8192].map((rows) => timed(prompts(1, rows))),
    items: timed(prompts(4, 512)),
    attention: [0, 2048, 8192, 16_384].map((before) => timed(prompts(1, 2048, before))),
    decode: [timed(decodes(1, 512)), timed(decodes(64, 512)), timed(decodes(64, 4096))],
    mixed: [],
    selection: [],
    dropped: [],
  }
  const calibration = calibrationFrom(measured, costs)
  expect(calibration.links).toEqual(ranks === 1 ? undefined : [link])
  const made = new DeviceCostModel({ ...costs, calibration })
  for (const { load, micros } of [...measured.linear, ...measured.attention.slice(1), ...measured.decode]) {
    expect(made.stepMicros(load) / micros).toBeCloseTo(1, 2)
  }
  // Twice the time of all-reduces is as much more as they take: they are in no rate.
  const slow = link.points.map(({ bytes, micros }) => ({ bytes, micros: 2 * micros }))
  const behind = new DeviceCostModel({ ...costs, calibration, link: costs.link && { ...link, points: slow } })
  const realBehind = new DeviceCostModel({
    ...costs,
    calibration: device,
    link: costs.link && { ...link, points: slow },
  })
  for (const load of [prompts(1, 8192), decodes(64, 2048)]) {
    expect(behind.stepMicros(load) / realBehind.stepMicros(load)).toBeCloseTo(1, 1)
  }
})
