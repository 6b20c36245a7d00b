import { checkedRun } from "@uniprefill/simulator/explore/CheckedRun"
import { shrink } from "@uniprefill/simulator/explore/Shrink"
import { swarmScenario } from "@uniprefill/simulator/explore/Swarm"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { describe, expect, it } from "vitest"

const noFiles = (file: string): never => {
  throw new Error(`${file} is not read`)
}
const check = (scenario: Scenario) => checkedRun(buildExperiment(withDefaults(scenario), noFiles))

describe("the swarm", () => {
  const seeds = Number(process.env["UNIPREFILL_SWARM_SEEDS"] ?? 60)
  it(`breaks no invariant in scenarios 1 to ${seeds}`, () => {
    const broken: Array<string> = []
    for (let seed = 1; seed <= seeds; seed++) {
      const violation = check(swarmScenario(seed))
      if (violation !== null) broken.push(`swarm ${seed}: ${violation.detail}`)
    }
    expect(broken).toEqual([])
  })

  it("gives the same scenario for a seed", () => {
    expect(swarmScenario(5)).toEqual(swarmScenario(5))
    expect(swarmScenario(5)).not.toEqual(swarmScenario(6))
  })
})

it("shrinks a failing scenario to what the failure needs", () => {
  const failing = swarmScenario(11)
  // A made-up fault: prompts of at least 100 tokens beside cancellations.
  const faultOf = ({ faults, workload }: Scenario) => {
    const high = Number(
      String(workload?.promptTokens ?? "0")
        .split("-")
        .at(-1),
    )
    return (faults?.cancelled ?? 0) > 0 && high >= 100 ? "made-up" : null
  }
  const start: Scenario = { ...failing, faults: { ...failing.faults, cancelled: 0.6 } }
  const { scenario, runs } = shrink(start, faultOf)
  expect(faultOf(scenario)).toBe("made-up")
  expect(scenario.workload).toMatchObject({ requests: 1 })
  expect(Number(scenario.workload?.promptTokens)).toBeLessThan(200)
  expect(scenario.faults).toEqual({ cancelled: 0.6 })
  expect(scenario.engine ?? {}).toEqual({})
  expect(scenario.model).toBeUndefined()
  expect(runs).toBeLessThan(400)
})

it("takes a smaller scenario that cannot be built for one that breaks nothing", () => {
  const faultOf = (scenario: Scenario) => {
    if ((scenario.engine?.maxRowsPerStep ?? 0) < 100) throw new Error("cannot be built")
    return "made-up"
  }
  const { scenario } = shrink({ engine: { maxRowsPerStep: 200, slots: 4 }, workload: { requests: 8 } }, faultOf)
  expect(scenario).toEqual({ engine: { maxRowsPerStep: 200 }, workload: { requests: 1 } })
})
