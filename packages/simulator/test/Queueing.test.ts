import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { Simulation } from "@uniprefill/simulator/Simulation"
import type { Scenario } from "@uniprefill/simulator/scenario/Scenario"
import type { Workload } from "@uniprefill/simulator/workload/Workload"
import { describe, expect, it } from "vitest"
import { experimentOf, noHost, simulated } from "./Experiments.ts"

/** One request at a time, one output token, prompts in one step: a queue with one server and constant service. */
const singleServer = (ratePerSecond: number, requests: number): Scenario => ({
  schedule: "off",
  workload: { arrivals: "poisson", ratePerSecond, requests, promptTokens: 1000, outputTokens: 1 },
  engine: { slots: 1, maxRowsPerStep: 1064, idleStepBudgetMs: 1e6, stepsInFlight: 1, prefixCaching: false },
  host: noHost,
})

describe("M/D/1: the mean wait is ρD / 2(1 − ρ)", () => {
  const alone = simulated(singleServer(0.001, 1))
  const service = alone.log.lastToken[0]! - alone.log.arrival[0]!

  /** Mean wait divided by the formula's. */
  const againstFormula = ({ log }: Simulation, load: number): number => {
    let wait = 0
    for (let row = 0; row < log.count; row++) wait += log.firstScheduled[row]! - log.arrival[row]!
    return wait / log.count / ((load * service) / (2 * (1 - load)))
  }

  it.each([0.3, 0.5, 0.7, 0.85])("at load %d", (load) => {
    const simulation = simulated(singleServer((load * 1e6) / service, 60_000))
    const { log } = simulation
    for (let row = 0; row < log.count; row++) {
      expect(log.lastToken[row]! - log.firstScheduled[row]!).toBe(service)
    }
    expect(againstFormula(simulation, load)).toBeGreaterThan(0.95)
    expect(againstFormula(simulation, load)).toBeLessThan(1.05)
    expect(simulation.counters.busyMicros).toBe(service * log.count)
  })

  it.each([0.8, 1.25])("which arrivals miss whose gaps vary %d times as much as Poisson's", (cv) => {
    const { workload, ...rest } = singleServer(700_000 / service, 60_000)
    const ratio = againstFormula(simulated({ ...rest, workload: { ...workload, arrivals: "gamma", cv } }), 0.7)
    expect(Math.abs(ratio - 1)).toBeGreaterThan(0.15)
  })
})

it("Little's law: requests in the system are the rate times the time in it", () => {
  const simulation = simulated({
    workload: { ratePerSecond: 1.5, requests: 3000 },
    engine: { slots: 64 },
    host: noHost,
  })
  const { waiting, running } = simulation.counters.occupancy.series
  const inSystem = waiting.map((count, i) => count + running[i]!)
  const mean = inSystem.reduce((sum, count) => sum + count, 0) / inSystem.length
  const summary = summarise(simulation, { slo: { ttftMs: 0, tpotMs: 0 }, warmupRequests: 0, gpuHourPrice: 0 })
  expect(mean).toBeGreaterThan(3)
  // Requests are counted as running until the step in flight ends: up to two steps more.
  expect(mean / ((summary.e2e.mean / 1000) * (summary.offered / summary.durationSeconds))).toBeCloseTo(1, 1)
})

const mixed: Scenario = {
  workload: { ratePerSecond: 2, requests: 300, promptTokens: "uniform:200-20000", outputTokens: "uniform:1-300" },
  engine: { slots: 32 },
}

describe("invariance", () => {
  const latencies = (simulation: Simulation) =>
    Array.from({ length: simulation.log.count }, (_, row) => [
      simulation.log.firstToken[row]! - simulation.log.arrival[row]!,
      simulation.log.lastToken[row]! - simulation.log.arrival[row]!,
    ])
  const run = (scenario: Scenario, change: (workload: Workload) => Workload) => {
    const { setup, workload } = experimentOf(scenario)
    const simulation = new Simulation(setup, change(workload))
    simulation.advance()
    return simulation
  }

  it("shifting every arrival shifts every event", () => {
    const base = run(mixed, (workload) => workload)
    const shifted = run(mixed, (workload) => ({
      ...workload,
      arrivalMicros: workload.arrivalMicros.map((time) => time + 123_456_789),
    }))
    expect(latencies(shifted)).toEqual(latencies(base))
    expect(shifted.hash).toBe(base.hash)
    expect(shifted.now).toBe(base.now + 123_456_789)
  })

  it("shifting those after the 20th alone gives other plans", () => {
    const base = run(mixed, (workload) => workload)
    const moved = run(mixed, (workload) => ({
      ...workload,
      arrivalMicros: workload.arrivalMicros.map((time, row) => (row < 20 ? time : time + 1_000_000)),
    }))
    expect(moved.hash).not.toBe(base.hash)
  })

  it("renaming requests changes nothing but their names", () => {
    // Rows in another order, each still at its time: names are places in the workload.
    const reversed = (workload: Workload): Workload => {
      const order = Array.from({ length: workload.count }, (_, i) => workload.count - 1 - i)
      const pick = <A extends Float64Array | Int32Array>(column: A): A => column.map((_, i) => column[order[i]!]!) as A
      return {
        ...workload,
        arrivalMicros: pick(workload.arrivalMicros),
        promptTokens: pick(workload.promptTokens),
        outputTokens: pick(workload.outputTokens),
        maxTokens: pick(workload.maxTokens),
      }
    }
    const dense = { ...mixed, schedule: "off" }
    const base = run(dense, (workload) => workload)
    const renamed = run(dense, reversed)
    expect(latencies(renamed).reverse()).toEqual(latencies(base))
    expect(renamed.hash).toBe(base.hash)
  })
})

it("the same scenario gives the same plans, and another seed others", () => {
  expect(simulated(mixed).hash).toBe(simulated(mixed).hash)
  expect(simulated({ ...mixed, seed: 2 }).hash).not.toBe(simulated(mixed).hash)
})

it("running in pieces gives the same plans as running at once", () => {
  const { setup, workload } = experimentOf(mixed)
  const simulation = new Simulation(setup, workload)
  while (!simulation.isDone) simulation.advance(7)
  expect(simulation.hash).toBe(simulated(mixed).hash)
})
