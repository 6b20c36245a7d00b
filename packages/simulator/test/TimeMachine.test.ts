import { Random } from "@uniprefill/units/Random"
import type { Replica, StepRecord } from "@uniprefill/simulator/Replica"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { swarmScenario } from "@uniprefill/simulator/explore/Swarm"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { Simulation } from "@uniprefill/simulator/Simulation"
import {
  requestDetail,
  stepState,
  type RequestDetail,
  type StepState,
} from "@uniprefill/simulator/timetravel/StepState"
import { TimeMachine } from "@uniprefill/simulator/timetravel/TimeMachine"
import { describe, expect, it } from "vitest"
import { noFiles, simulated } from "./Experiments.ts"

/** A run to its end, with checkpoints close together. */
const machineOf = (scenario: Scenario, stepsBetween = 64): TimeMachine => {
  const { setup, workload } = buildExperiment(withDefaults(scenario), noFiles)
  const machine = new TimeMachine(setup, workload)
  let next = stepsBetween
  while (!machine.simulation.isDone) {
    machine.advance(17)
    if (machine.steps < next) continue
    machine.checkpoint()
    next = machine.steps + stepsBetween
  }
  return machine
}

/** As a simulation that has never looked back finds it. */
const freshState = (scenario: Scenario, index: number, row: number) => {
  const { setup, workload } = buildExperiment(withDefaults(scenario), noFiles)
  const found: Array<{ readonly state: StepState; readonly detail: RequestDetail | null }> = []
  const simulation: Simulation = new Simulation(setup, workload, {
    stepStarted: (replica: Replica, step: StepRecord, end: number) => {
      if (simulation.counters.steps - 1 !== index) return
      found.push({ state: stepState(replica, step, end, simulation.now), detail: requestDetail(replica, row) })
    },
  })
  while (found.length === 0) simulation.advance(1)
  return found[0]
}

const busy: Scenario = {
  seed: 3,
  replicas: 2,
  workload: { requests: 80, ratePerSecond: 4, promptTokens: "lognormal:6000,1,60000", outputTokens: "uniform:1-200" },
  engine: { slots: 8, slabs: 9000 },
}

describe("TimeMachine", () => {
  it("changes nothing about the run", () => {
    const machine = machineOf(busy)
    const plain = simulated(busy)
    expect(machine.simulation.hash).toBe(plain.hash)
    const { summary } = buildExperiment(withDefaults(busy), noFiles)
    expect(summarise(machine.simulation, summary)).toEqual(summarise(plain, summary))
  })

  it("finds the state of any step as a run up to that step has it, in any order", () => {
    const machine = machineOf(busy)
    const random = new Random(1, "steps")
    expect(machine.steps).toBeGreaterThan(1000)
    const steps = Array.from({ length: 12 }, () => random.below(machine.steps))
    for (const index of [...steps, machine.steps - 1, 0, steps[0]!, steps[0]! + 1]) {
      const row = random.below(80)
      expect(machine.at(index, row)).toEqual(freshState(busy, index, row))
    }
  })

  it("makes the same plans to the end from any checkpoint", () => {
    for (let seed = 1; seed <= 10; seed++) {
      const scenario = swarmScenario(seed)
      const expected = simulated(scenario).hash
      const machine = machineOf(scenario, 20)
      const random = new Random(seed, "looks")
      for (let look = 0; look < 4 && machine.steps > 0; look++) machine.at(random.below(machine.steps))
      machine.simulation.advance()
      expect(machine.simulation.hash, `seed ${seed}`).toBe(expected)
    }
  })

  it("records every step as it was, and every preemption", () => {
    const tight: Scenario = {
      workload: { requests: 40, ratePerSecond: 50, promptTokens: "uniform:500-3000", outputTokens: "uniform:300-900" },
      engine: { slots: 16, slabs: 2000 },
    }
    const machine = machineOf(tight)
    const { steps, items, preemptions, memory } = machine.finish()
    expect(steps.count).toBe(machine.simulation.counters.steps)
    const scheduled = machine.simulation.replicas.reduce((sum, { driver }) => sum + driver.scheduler.preemptions, 0)
    expect(scheduled).toBeGreaterThan(0)
    expect(preemptions.count).toBe(scheduled)
    expect(memory.count).toBe(Math.ceil(steps.count / 16))
    for (const index of [0, 57, 300, steps.count - 1]) {
      const { state } = machine.at(index)
      expect({
        step: steps.stepId[index],
        start: steps.start[index],
        micros: steps.micros[index],
        planned: steps.planned[index],
        decodeRows: steps.decodeRows[index],
        items: steps.items[index],
        used: steps.used[index],
      }).toEqual({
        step: state.step,
        start: state.startMicros,
        micros: state.endMicros - state.startMicros,
        planned: state.plannedMicros,
        decodeRows: state.decodeRows,
        items: state.items.length,
        used: state.memory.used,
      })
      const own = Array.from(items.step.keys()).filter((i) => items.step[i] === index)
      expect(
        own.map((i) => [items.request, items.rows, items.firstSegment, items.lastSegment].map((c) => c[i])),
      ).toEqual(state.items.map((piece) => [piece.row, piece.rows, piece.firstSegment, piece.lastSegment]))
    }
  })

  it("says of a request which blocks of the prompt each selection kept", () => {
    const machine = machineOf(busy)
    const { items } = machine.finish()
    // The last piece of a prompt that drops: every selection but that of this step is known.
    const at = Array.from(items.lastSegment.keys()).findLast((i) => items.firstSegment[i]! > 2)!
    const { detail } = machine.at(items.step[at]!, items.request[at])
    const { kept, state } = detail!
    expect(kept.rows).toEqual(state.keptRows)
    for (const [s, counts] of kept.kept.entries()) {
      expect(counts.reduce((sum, count) => sum + count, 0)).toBe(kept.rows[s + 1])
      for (const [block, count] of counts.entries()) {
        expect(count).toBeLessThanOrEqual(s === 0 ? kept.block : kept.kept[s - 1]![block]!)
      }
    }
    expect(kept.kept.length).toBeGreaterThan(2)
  })

  it("counts the prefix cache tree by tree", () => {
    const sessions: Scenario = {
      workload: { arrivals: "sessions", requests: 40, ratePerSecond: 4, turns: 5, thinkMs: 200, promptTokens: 2000 },
    }
    const machine = machineOf(sessions)
    const { cache } = machine.at(machine.steps - 1).state.memory
    const runs = machine.simulation.replicas[0]!.driver.scheduler.memory.tree.values()
    const depthOf = (run: (typeof runs)[number]): number =>
      run.parent!.parent === null ? run.pages : run.pages + depthOf(run.parent!)
    const rootOf = (run: (typeof runs)[number]): (typeof runs)[number] =>
      run.parent!.parent === null ? run : rootOf(run.parent!)
    const pagesOf = (some: typeof runs) => some.reduce((sum, { pages }) => sum + pages, 0)
    const trees = Map.groupBy(runs, rootOf)
    expect(trees.size).toBeGreaterThan(3)
    expect(runs.some(({ pages }) => pages > 3)).toBe(true)
    expect([cache.pages, cache.prefixes]).toEqual([pagesOf(runs), trees.size])
    const naive = [...trees].map(([first, own]) => ({
      pages: pagesOf(own),
      longest: Math.max(...own.map(depthOf)),
      users: first.users,
    }))
    const bySize = (a: { pages: number; longest: number }, b: { pages: number; longest: number }) =>
      b.pages - a.pages || b.longest - a.longest
    expect(cache.largest.toSorted(bySize)).toEqual(naive.sort(bySize).slice(0, 12))
  })

  it("refuses a step that was not planned", () => {
    const machine = machineOf({ workload: { requests: 1, promptTokens: 100, outputTokens: 3 } })
    expect(() => machine.at(machine.steps)).toThrow(`step ${machine.steps} of ${machine.steps}`)
    expect(() => machine.at(-1)).toThrow(RangeError)
  })
})
