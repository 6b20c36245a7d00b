import { swarmScenario } from "@uniprefill/simulator/explore/Swarm"
import { checkedRun } from "@uniprefill/simulator/explore/CheckedRun"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { RequestStatus } from "@uniprefill/simulator/metrics/RequestLog"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults, type Scenario, type ScenarioChange } from "@uniprefill/simulator/scenario/Scenario"
import { decodeScenario } from "@uniprefill/simulator/scenario/ScenarioFields"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { describe, expect, it } from "vitest"
import { experimentOf, noFiles } from "./Experiments.ts"

const base: Scenario = {
  seed: 5,
  workload: { requests: 60, ratePerSecond: 3, promptTokens: "lognormal:9000,1,60000", outputTokens: "uniform:20-200" },
  engine: { slots: 8 },
}

/** A run with the plan hash after each step, and when it was planned. */
const runOf = (scenario: Scenario) => {
  const { setup, workload, summary } = buildExperiment(withDefaults(scenario), noFiles)
  const plans: Array<{ readonly at: number; readonly hash: string; readonly micros: number }> = []
  const simulation: Simulation = new Simulation(setup, workload, {
    stepStarted: (replica, step) =>
      plans.push({ at: simulation.now, hash: replica.hash.digest, micros: step.deviceMicros }),
  })
  simulation.advance()
  return { simulation, plans, summary: summarise(simulation, summary) }
}

/** The moment at which a step in the middle of the run was planned. */
const middle = (scenario: Scenario): number => {
  const { plans } = runOf(scenario)
  return plans[Math.floor(plans.length / 2)]!.at
}

const changes: ReadonlyArray<readonly [string, Omit<ScenarioChange, "atMicros">]> = [
  ["another policy", { policy: "shortest-prefill" }],
  ["a policy that bounds rows", { policy: "token-budget" }],
  ["another budget", { stepBudgetMs: 12 }],
  ["other kept rows", { keep: [0.1] }],
  ["a burst", { burst: { requests: 5, promptTokens: 4000, outputTokens: 10 } }],
  ["a slow device", { slow: { factor: 3, seconds: 4 } }],
]

describe("a change", () => {
  const at = middle(base)
  const before = runOf(base)

  it.each(changes)("%s leaves every plan before it as it was, and not those after it", (_, change) => {
    const after = runOf({ ...base, changes: [{ atMicros: at, ...change }] })
    const same = before.plans.findIndex((plan, i) => JSON.stringify(plan) !== JSON.stringify(after.plans[i]))
    expect(same).toBeGreaterThan(100)
    expect(before.plans[same]!.at).toBeGreaterThanOrEqual(at)
    expect(after.summary.complete).toBe(true)
  })

  it("is in force in the very step that is planned at its time", () => {
    const { plans } = runOf({ ...base, changes: [{ atMicros: at, slow: { factor: 3, seconds: 1 } }] })
    const index = before.plans.findIndex((plan) => plan.at === at)
    expect(plans[index]!.micros).toBe(Math.round(before.plans[index]!.micros * 3))
    expect(plans[index - 1]!.micros).toBe(before.plans[index - 1]!.micros)
  })

  it("ends the requests that it names", () => {
    const { log } = before.simulation
    const running = Array.from(log.status.keys()).find((row) => log.firstToken[row]! < at && log.lastToken[row]! > at)!
    const { simulation } = runOf({ ...base, changes: [{ atMicros: at, abort: [running + 1, 1] }] })
    expect(simulation.log.status[running]).toBe(RequestStatus.aborted)
    // It was done before.
    expect(simulation.log.status[0]).toBe(RequestStatus.completed)
  })

  it("slows one replica alone", () => {
    const two: Scenario = { ...base, replicas: 2, workload: { ...base.workload, ratePerSecond: 8 } }
    const slow: Scenario = { ...two, changes: [{ atMicros: 0, slow: { replica: 1, factor: 5, seconds: 1000 } }] }
    const { simulation } = runOf(slow)
    const served = simulation.replicas.map(({ index }) => simulation.log.replica.filter((one) => one === index).length)
    expect(served[0]).toBeGreaterThan(served[1]! * 1.3)
  })

  it("keeps the books of random scenarios in balance", () => {
    for (let seed = 1; seed <= 8; seed++) {
      const scenario = swarmScenario(seed)
      const changed: Scenario = {
        ...scenario,
        changes: changes.map(([, change], i) => ({
          ...change,
          // The sequences of a policy that bounds rows fit the scenario's slots.
          atMicros: 50_000 * (i + 1),
          abort: [1],
        })),
      }
      const violation = checkedRun(buildExperiment(withDefaults(changed), noFiles))
      expect(violation, `seed ${seed}`).toBeNull()
    }
  })

  it.each([
    [{ atMicros: -1 }, "changes.0.atMicros"],
    [{ atMicros: 5, polcy: "fcfs" }, "changes.0.polcy"],
    [{ atMicros: 5, slow: { factor: 0, seconds: 1 } }, "changes.0.slow.factor"],
  ])("%j is refused at its field", (change, field) => {
    expect(() => decodeScenario("x.json", { changes: [change] })).toThrow(field)
  })

  it.each([
    [{ policy: "slowest" }, 'there is no "slowest"'],
    [{ abort: [61] }, "changes.0.abort: there are 60 requests, not 61"],
    [{ slow: { replica: 2, factor: 2, seconds: 1 } }, "changes.0.slow.replica: there are 1 replicas"],
    [{ burst: { requests: 2, promptTokens: "many" } }, "changes.0.burst.promptTokens"],
  ])("%j is refused with what there is", (change, message) => {
    expect(() => experimentOf({ ...base, changes: [{ atMicros: 5, ...change }] })).toThrow(message)
  })
})
