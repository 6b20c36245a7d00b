import { fc, test } from "@fast-check/vitest"
import { weightBytes } from "@uniprefill/cost-model/ModelShape"
import { operationWork } from "@uniprefill/cost-model/OperationWork"
import { Curve } from "@uniprefill/cost-model/Curve"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { devices } from "@uniprefill/simulator/device/Devices"
import { modelPresets } from "@uniprefill/simulator/model/ModelPresets"
import { scenarioFields } from "@uniprefill/simulator/scenario/ScenarioFields"
import { driverConfig } from "@uniprefill/simulator/Setup"
import { describe, expect, it } from "vitest"
import { experimentOf, noHost } from "./Experiments.ts"

const costsOf = (scenario: Parameters<typeof experimentOf>[0]) =>
  driverConfig(experimentOf({ host: noHost, ...scenario }).setup).costModel

describe("a whole dense prefill on an H200", () => {
  const costs = costsOf({ schedule: "off" })

  // Measured: one Llama-3.1-8B layer by the best library calls, times 32.
  it.each([
    [8192, 185],
    [16_384, 438],
    [32_768, 1113],
    [65_536, 3323],
    [131_072, 10_848],
  ])("of %d tokens takes the measured %d ms, less the last layer's trim", (tokens, milliseconds) => {
    const load = new StepLoad(1)
    load.items = 1
    load.addRows(1, 0, 0, tokens, tokens, tokens)
    const predicted = costs.stepMicros(load) / 1000
    expect(predicted / milliseconds).toBeGreaterThan(0.94)
    expect(predicted / milliseconds).toBeLessThan(1.02)
    expect(costs.outside(load)).toEqual([])
  })

  it("of a size that was not measured says so", () => {
    const load = new StepLoad(1)
    load.items = 1
    load.addRows(1, 0, 0, 1000, 1000, 1000)
    expect(costs.outside(load).join()).toMatch(
      /matrix products of 1000 rows, measured 8192 to 131072.*attention as in 1000 tokens/,
    )
  })
})

describe("a step", () => {
  const count = fc.integer({ min: 0, max: 300 })
  const loads = fc.record({ decodeRows: count, keys: count, rows: fc.constantFrom(0, 0, 64, 4096), scored: count })

  test.prop({ steps: fc.array(loads, { minLength: 1, maxLength: 20 }) })(
    "takes what its parts add up to, and is outside of what was measured when something is named",
    ({ steps }) => {
      const costs = costsOf({})
      for (const { decodeRows, keys, rows, scored } of steps) {
        const load = new StepLoad(costs.costs.work.length)
        load.decodeRows = decodeRows
        load.decodeKeys.fill(decodeRows * keys)
        if (rows > 0) {
          load.items = 1
          load.addRows(1, 1, 128, rows, 8192, 16_384)
          load.addSelection(1, 1, scored)
        }
        const parts = costs.terms(load).filter(({ name }) => !name.startsWith("rounding"))
        const sum = parts.reduce((total, { micros }) => total + micros, 0)
        expect(costs.stepMicros(load)).toBe(Math.max(0, Math.ceil(sum - 1e-6)))
        expect(costs.isOutside(load)).toBe(costs.outside(load).length > 0)
      }
    },
  )
})

describe("decoding", () => {
  const decode = (scenario: Parameters<typeof experimentOf>[0], rows: number, keys: number) => {
    const load = new StepLoad(1)
    load.decodeRows = rows
    load.decodeKeys[0] = rows * keys
    return costsOf({ schedule: "off", ...scenario }).stepMicros(load)
  }

  it("one row reads every weight but the embedding once", () => {
    const { shape } = modelPresets.get("llama-3.1-8b")!
    const { hiddenSize, vocabSize } = shape.spec
    const bytes = weightBytes(shape) - hiddenSize * vocabSize * 2
    expect(decode({}, 1, 0)).toBe(Math.ceil(bytes / 4.3e6))
  })

  it("a key costs the reading of its K and V in every layer", () => {
    expect((decode({}, 64, 10_000) - decode({}, 64, 0)) / ((64 * 10_000 * 32 * 2 * 8 * 128 * 2) / 4.3e6)).toBeCloseTo(
      1,
      3,
    )
  })

  it("reads as many experts as rows are expected to pass", () => {
    const qwen = { model: "qwen3-next-80b-a3b", tensorParallel: 2 }
    const [one, many, all] = [1, 64, 256].map((rows) => decode(qwen, rows, 0)) as [number, number, number]
    const perExpert = (48 * 3 * 2048 * 512 * 2) / 2 / 4.3e6
    expect((many - one) / perExpert).toBeGreaterThan(512 * (1 - (1 - 10 / 512) ** 64) - 10)
    expect((all - one) / perExpert).toBeGreaterThan(500 - 10)
  })
})

describe("tensor parallel ranks", () => {
  const { shape } = modelPresets.get("llama-3.1-8b")!
  const layout = makeKvLayout(shape.spec, denseSchedule, { pageSize: 128, kvElementBytes: 2, carryElementBytes: 2 })
  const [one, two, sixteen] = [1, 2, 16].map((ranks) => operationWork(shape, layout, ranks)[0]!)

  it("share the work", () => {
    expect(two!.rowFlops / one!.rowFlops).toBeCloseTo(0.5, 12)
    expect(two!.pairFlops / one!.pairFlops).toBe(0.5)
    expect(two!.decodeKeyBytes / one!.decodeKeyBytes).toBe(0.5)
  })

  it("replicate K/V heads where there are fewer of them", () => {
    expect(sixteen!.decodeKeyBytes / one!.decodeKeyBytes).toBe(1 / 8)
  })
})

it("models have the parameters that their names say", () => {
  const billions = [...modelPresets].map(([name, { shape }]) => [name, weightBytes(shape) / 2e9] as const)
  const expected: Record<string, number> = {
    "llama-3.1-8b": 8.03,
    "llama-3.1-70b": 70.6,
    "gemma-3-12b": 11.8,
    "qwen3-next-80b-a3b": 79.7,
  }
  for (const [name, parameters] of billions) expect(parameters / expected[name]!).toBeCloseTo(1, 1)
})

it("only what was measured is called calibrated", () => {
  expect([...devices.values()].filter((device) => device.calibration !== null).map((device) => device.name)).toEqual([
    "h200",
  ])
})

it("a rate between two points lies on their line, beyond them at the nearest", () => {
  const curve = new Curve([
    [10, 1],
    [20, 2],
    [40, 1],
  ])
  expect([5, 10, 15, 20, 30, 40, 99].map((at) => curve.at(at))).toEqual([1, 1, 1.5, 2, 1.5, 1, 1])
  expect([9, 10, 40, 41].map((at) => curve.covers(at))).toEqual([false, true, true, false])
})

it("every field of a scenario has a flag of its own, a description and a default", () => {
  expect(new Set(scenarioFields.map((field) => field.flag)).size).toBe(scenarioFields.length)
  for (const { path, description, defaultValue } of scenarioFields) {
    expect([path, description.length > 10, defaultValue !== undefined]).toEqual([path, true, true])
  }
})
