import { decodeCalibration } from "@uniprefill/cost-model/Calibration"
import { fitDefaults, fitToRun, readRecordedRun } from "@uniprefill/simulator/explore/Fit"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { describe, expect, it } from "vitest"
import { experimentOf, noHost } from "./Experiments.ts"

const scenario = {
  device: "l40s",
  schedule: "off",
  host: noHost,
  workload: { requests: 40, ratePerSecond: 2, promptTokens: "uniform:100-900", outputTokens: "uniform:20-60" },
} as const

/** A run as vLLM records it: this simulator's own, on a device 0.7 times as fast as assumed, with 2 ms a step. */
const recordedText = (): string => {
  const experiment = experimentOf({ ...scenario, engine: { efficiency: 0.7 }, host: { ...noHost, launchMicros: 2000 } })
  const simulation = new Simulation(experiment.setup, experiment.workload)
  simulation.advance()
  const { log } = simulation
  return Array.from({ length: log.count }, (_, row) =>
    JSON.stringify({
      request_id: `bench-${row}`,
      output_toks: log.outputs[row],
      queued_ts: 5 + log.arrival[row]! / 1e6,
      first_token_ts: 5 + log.firstToken[row]! / 1e6,
      last_token_ts: 5 + log.lastToken[row]! / 1e6,
    }),
  ).join("\n")
}

describe("a fit", () => {
  it("finds what a run was made with, and foretells the requests that it has not seen", () => {
    const recorded = readRecordedRun("requests.jsonl", recordedText())
    const found = fitToRun(experimentOf(scenario), recorded, { ...fitDefaults, fitted: 20 })
    expect(found.error).toBeLessThan(0.01)
    // The two trade off: a device somewhat faster with a longer step decodes alike.
    expect(Math.abs(found.efficiency / 0.7 - 1)).toBeLessThan(0.3)
    expect(found.onEdge).toEqual([])
    expect(found.held).toHaveLength(20)
    for (const { recorded: real, tpot } of found.held) expect(tpot / real.tpot).toBeCloseTo(1, 1)
    expect(decodeCalibration(JSON.parse(JSON.stringify(found.calibration)))).toMatchObject({
      source: "fitted",
      fittedTo: { model: "llama-3.1-8b", tensorParallel: 1 },
    })
  })

  it("says where it sits on the edge of what was looked at", () => {
    const recorded = readRecordedRun("requests.jsonl", recordedText())
    const narrow = { fitted: 20, efficiency: [1, 1.5], stepMicros: [0, 500] } as const
    expect(fitToRun(experimentOf(scenario), recorded, narrow).onEdge).toContain("the factor on rates, 1")
  })

  it("of a malformed run is refused by line and field", () => {
    expect(() => readRecordedRun("r.jsonl", '{"request_id": "x", "queued_ts": 1}')).toThrow(/r\.jsonl:1: request_id/)
    const row = { request_id: "bench-0", queued_ts: 1, first_token_ts: "soon", last_token_ts: 3, output_toks: 4 }
    expect(() => readRecordedRun("r.jsonl", JSON.stringify(row))).toThrow(/r\.jsonl:1: first_token_ts is "soon"/)
  })
})
