import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { footprintOf } from "@uniprefill/placement/Footprint"
import type { Latencies } from "@uniprefill/placement/Placement"
import type { RankFit } from "@uniprefill/placement/RankFit"
import { StepLoad, windowsOf } from "@uniprefill/scheduler/StepLoad"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { keptShare } from "@uniprefill/simulator/model/KeepProfile"
import { type Provenance, provenanceOf } from "@uniprefill/simulator/output/Provenance"
import type { Experiment } from "@uniprefill/simulator/scenario/Build"
import type { Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { driverConfig, type Setup } from "@uniprefill/simulator/Setup"
import { Simulation } from "@uniprefill/simulator/Simulation"

/** Prompts of one length in the slabs of one replica. */
export interface Capacity {
  /** Tokens of such prompts whose K and V the slabs hold. */
  readonly tokens: number
  /** Such prompts that decode at the same time; no more than there are slots. */
  readonly atOnce: number
  /** Bytes of carries on each device while one such prompt is computed. */
  readonly carryBytes: number
  /** A decode step of so many at once. */
  readonly decodeStepMicros: number
}

/** Output tokens of the prompt that is simulated alone. */
export const probeOutputs = 9

/** A scenario with one prompt and nothing else in it. */
export const probeScenario = (scenario: Scenario, promptTokens: number): Scenario => {
  const { sweep: _sweep, variants: _variants, faults: _faults, ...rest } = scenario
  return {
    ...rest,
    tensorParallel: 1,
    replicas: 1,
    policy: "fcfs",
    timeoutMs: 0,
    untilSeconds: 0,
    warmupRequests: 0,
    workload: { arrivals: "closed", clients: 1, requests: 1, promptTokens, outputTokens: probeOutputs },
  }
}

/** What prompts of one length find under a tensor-parallel degree: the simulator's setup, memory and cost model. */
export class PlacementProbe {
  /** What each degree's times rest on, once `latencies` was asked for them. */
  readonly provenances = new Map<number, Provenance>()
  private readonly experiment: Experiment
  private readonly setup: Setup
  private readonly promptTokens: number

  /** `experiment` is that of a {@link probeScenario}. */
  constructor(experiment: Experiment, promptTokens: number) {
    this.experiment = experiment
    this.setup = experiment.setup
    this.promptTokens = promptTokens
  }

  /** One prompt alone, simulated: what is seen at best. Null where it does not fit. */
  latencies(tensorParallel: number, drops: boolean): Latencies | null {
    const schedule = drops ? this.setup.schedule : denseSchedule
    const setup = { ...this.setup, tensorParallel, schedule }
    const simulation = new Simulation(setup, this.experiment.workload)
    simulation.advance()
    const nothing = { slo: { ttftMs: 0, tpotMs: 0 }, warmupRequests: 0, gpuHourPrice: 0 }
    const summary = summarise(simulation, nothing)
    if (drops || !this.provenances.has(tensorParallel)) {
      this.provenances.set(tensorParallel, provenanceOf({ ...this.experiment, setup }, summary))
    }
    const { completed, ttft, tpot } = summary
    if (completed === 0) return null
    return { timeToFirstTokenMicros: Math.round(ttft.mean * 1000), timePerTokenMicros: Math.round(tpot.mean * 1000) }
  }

  capacity(tensorParallel: number, { memory, slabs }: RankFit, drops: boolean): Capacity {
    const { layout } = memory
    const rows = this.rows(drops)
    const footprint = footprintOf(layout, rows)
    const atOnce = Math.min(this.setup.engine.slots, Math.floor(slabs / footprint.slabs))
    const load = new StepLoad(layout.segments.length, windowsOf(layout))
    load.decodeRows = atOnce
    for (let s = 0; s < layout.segments.length; s++) load.addDecodes(s, atOnce, rows[Math.min(s, rows.length - 1)]!)
    return {
      tokens: Math.floor((slabs / footprint.slabs) * this.promptTokens),
      atOnce,
      carryBytes: footprint.carrySlabs * layout.slabBytes,
      decodeStepMicros: driverConfig({ ...this.setup, tensorParallel }).costModel.stepMicros(load),
    }
  }

  /** |S_i| for each segment by the keep profile; the prompt's length alone where nothing drops. */
  private rows(drops: boolean): ReadonlyArray<number> {
    const { promptTokens } = this
    const { schedule, keep } = this.setup
    const { length } = schedule.dropLayers
    if (!drops || promptTokens < schedule.minPromptTokens) return [promptTokens]
    const kept = schedule.dropLayers.map((_, i) => Math.round(promptTokens * keptShare(keep, promptTokens, i, length)))
    return [promptTokens, ...kept]
  }
}
