import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { provenanceLines, provenanceOf } from "@uniprefill/simulator/output/Provenance"
import { benchTable } from "@uniprefill/simulator/output/Table"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { describe, expect, it } from "vitest"
import { experimentOf, noFiles } from "./Experiments.ts"

/** Served at 3 requests a second at most, at the schedule's p. */
const offered = (ratePerSecond: number, over: Scenario = {}): Scenario => ({
  workload: {
    requests: 400,
    ratePerSecond,
    promptTokens: "lognormal:8192,0.8,65536",
    outputTokens: "lognormal:200,0.6,1024",
  },
  keep: [0.86, 0.72, 0.62],
  slo: { ttftMs: 2000, tpotMs: 60 },
  ...over,
})

const lowering: Scenario = { engine: { sloP: 0.9 }, sloKeep: [0.57, 0.42, 0.3] }

const ran = (scenario: Scenario) => {
  const experiment = experimentOf(scenario)
  const simulation = new Simulation(experiment.setup, experiment.workload)
  simulation.advance()
  return { experiment, simulation, summary: summarise(simulation, experiment.summary) }
}

describe("p under a target for the first token", () => {
  it("is lowered beyond capacity, for some, and most of them come in time", () => {
    const fixed = ran(offered(3.3)).summary
    const { summary, experiment, simulation } = ran(offered(3.3, lowering))
    expect(fixed.lowered).toBe(0)
    expect(fixed.attainment).toBeLessThan(0.4)
    expect(summary.attainment).toBeGreaterThan(0.7)
    expect(summary.lowered).toBeGreaterThan(20)
    expect(summary.lowered).toBeLessThan(200)
    // Who was lowered keeps what is kept at that p, and nobody else does.
    const { log, workload } = simulation
    const keptOf = (lowered: number) => {
      const rows = Array.from(log.keptRows.keys()).filter(
        (row) => log.lowered[row] === lowered && log.keptRows[row]! >= 0 && workload.promptTokens[row]! > 8192,
      )
      return rows.reduce((sum, row) => sum + log.keptRows[row]! / workload.promptTokens[row]!, 0) / rows.length
    }
    expect(keptOf(0)).toBeCloseTo(0.62, 1)
    expect(keptOf(1)).toBeCloseTo(0.3, 1)
    const said = provenanceLines(provenanceOf(experiment, summary)).join("\n")
    expect(said).toContain(`lowered p  0.9 for ${Math.round(summary.lowered / 4)}% of requests`)
    expect(said).toContain("accuracy at 0.9: unknown")
    expect(benchTable(summary)).toMatch(new RegExp(`Requests served at a lower p: +${summary.lowered}\\n`))
  })

  it("stays as it is while everybody is in time, plan for plan", () => {
    const slo = { ttftMs: 6000 }
    const { summary, simulation } = ran(offered(0.7, { ...lowering, slo }))
    expect(summary.lowered).toBe(0)
    expect(simulation.hash).toBe(ran(offered(0.7, { slo })).simulation.hash)
  })

  it("takes what is kept at it from a file that measured several p", () => {
    const file = JSON.stringify({
      format: "uniprefill-keep",
      version: 1,
      source: "measured",
      note: "n",
      accuracy: [
        { p: 0.99, text: "as dense" },
        { p: 0.9, text: "two points less" },
      ],
      points: [
        { tokens: 8192, p: 0.9, kept: [0.5, 0.45, 0.4, 0.35, 0.3, 0.25] },
        { tokens: 8192, p: 0.99, kept: [0.9, 0.85, 0.8, 0.75, 0.7, 0.65] },
      ],
    })
    const { setup } = buildExperiment(withDefaults({ keep: "k.keep.json", engine: { sloP: 0.9 } }), () => file)
    expect([setup.keep.accuracy, setup.sloKeep!.accuracy]).toEqual(["as dense", "two points less"])
    expect(setup.sloKeep!.points[0]!.kept.at(-1)).toBe(0.25)
  })

  it.each<[string, Scenario, string]>([
    [
      "that nothing is known of",
      { engine: { sloP: 0.9 } },
      "sloKeep: engine.sloP is 0.9, and keep says nothing of that p",
    ],
    [
      "that lowers nothing",
      { engine: { sloP: 0.99 }, sloKeep: [0.5] },
      "engine.sloP: the schedule's p is 0.99 at most",
    ],
  ])("%s is refused", (_, scenario, message) => {
    expect(() => buildExperiment(withDefaults(scenario), noFiles)).toThrow(message)
  })

  it("means nothing to a model that is served dense", () => {
    const { setup } = experimentOf({ schedule: "off", engine: { sloP: 0.9 } })
    expect(setup.sloKeep).toBeUndefined()
  })
})
