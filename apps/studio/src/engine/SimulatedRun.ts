import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { provenanceOf } from "@uniprefill/simulator/output/Provenance"
import { describe, reproduction } from "@uniprefill/simulator/output/Describe"
import { resultJson } from "@uniprefill/simulator/output/Json"
import { PerfettoTrace } from "@uniprefill/simulator/output/Perfetto"
import { runReport } from "@uniprefill/simulator/output/RunReport"
import type { Experiment } from "@uniprefill/simulator/scenario/Build"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { requestColumns } from "@uniprefill/simulator/timetravel/RequestColumns"
import { TimeMachine, type Moment } from "@uniprefill/simulator/timetravel/TimeMachine"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { Progress, Provenance, RunMeta, RunResult } from "../protocol/Protocol.ts"
import { type LookBack, paced, type Timing } from "./LookBack.ts"

/** A run with more steps ends early: its columns would not fit beside those of other runs. */
export const maxSteps = 2_000_000

/** A simulation with everything that looking back at it needs. */
export class SimulatedRun implements LookBack {
  private readonly experiment: Experiment
  private readonly machine: TimeMachine
  private readonly about: ReadonlyArray<string>
  private readonly reproduction: string

  /** Fails with SetupError when the setup cannot be. */
  constructor(experiment: Experiment) {
    this.experiment = experiment
    // Said at the end; found out here, so that nothing stands between the end of the run and its picture.
    this.about = describe(experiment)
    this.reproduction = reproduction(experiment)
    this.machine = new TimeMachine(experiment.setup, experiment.workload)
  }

  get progress(): Progress {
    const { simulation, steps } = this.machine
    const drivers = simulation.replicas.map((replica) => replica.driver)
    return {
      done: simulation.ended,
      total: simulation.workload.count,
      steps,
      nowMicros: simulation.now,
      waiting: drivers.reduce((sum, driver) => sum + driver.waiting, 0),
      running: drivers.reduce((sum, driver) => sum + driver.running, 0),
    }
  }

  /** Simulates to the end, or until `isStopped` says so. */
  async run(isStopped: () => boolean, onProgress: (progress: Progress) => void): Promise<RunResult> {
    const { machine } = this
    const { simulation } = machine
    const timing = await paced(
      {
        advance: (instants) => machine.advance(instants),
        isDone: () => simulation.isDone || machine.steps >= maxSteps,
        spread: () => machine.checkpoints.spread,
        checkpoint: () => machine.checkpoint(),
        progress: () => this.progress,
      },
      isStopped,
      onProgress,
    )
    return this.result(timing, isStopped())
  }

  at(step: number, request: number): Moment {
    return this.machine.at(step, request)
  }

  /** Simulates again, for the file alone. */
  perfetto(): string {
    const { setup, workload, scenario } = this.experiment
    const trace = new PerfettoTrace()
    const simulation = new Simulation(setup, workload, trace.observer)
    while (!simulation.isDone && trace.complete) simulation.advance(1000)
    return trace.json({ scenario, assumptions: workload.assumptions }, simulation.isDone)
  }

  private result(timing: Timing, stopped: boolean): RunResult {
    const { experiment, machine, about } = this
    const { simulation } = machine
    const { scenario, workload } = experiment
    const summary = summarise(simulation, experiment.summary)
    const provenance = provenanceOf(experiment, summary)
    const json = resultJson(summary, { scenario, assumptions: workload.assumptions, provenance })
    return {
      name: scenario.name,
      hash: simulation.hash,
      complete: summary.complete,
      ended: summary.complete
        ? ""
        : stopped
          ? "stopped"
          : machine.steps >= maxSteps
            ? `ended after ${maxSteps.toLocaleString("en")} steps, the most that this page keeps: take fewer requests`
            : "ended at the scenario's untilSeconds",
      about,
      reproduction: this.reproduction,
      provenance: groundsOf(experiment, provenance),
      meta: metaOf(experiment, simulation),
      summary,
      report: runReport(scenario.name, about, experiment, simulation, summary),
      itlCdf: thinned(simulation.counters.gaps.distribution()),
      json,
      timeline: machine.finish(),
      requests: requestColumns(simulation),
      ...timing,
    }
  }
}

const groundsOf = (experiment: Experiment, grounds: ReturnType<typeof provenanceOf>): Provenance => {
  const { device, rates, ratesNote, link, kept, lowered } = grounds
  return {
    device,
    rates,
    ratesNote,
    link,
    keep: kept === null ? "served dense" : `${kept.source}: ${kept.note}`,
    accuracy: kept === null ? "as the dense model" : kept.accuracy,
    lowered,
    assumptions: experiment.workload.assumptions,
  }
}

const metaOf = ({ setup, scenario }: Experiment, { replicas }: Simulation): RunMeta => {
  const { layout, slabs } = replicas[0]!.config
  return {
    origin: "simulated",
    replicas: setup.replicas,
    devices: setup.replicas * setup.tensorParallel,
    segmentLayers: layout.segments.map(({ firstLayer, lastLayer }) => lastLayer - firstLayer + 1),
    memoryNames: memoryNames(layout),
    slabs,
    stepBudgetMicros: setup.engine.stepBudgetMicros,
    idleStepBudgetMicros: setup.engine.idleStepBudgetMicros,
    tokenBudget: setup.policy.tokenBudget?.maxNumBatchedTokens ?? null,
    policy: setup.policy.name,
    block: setup.schedule.block,
    seed: scenario.seed,
  }
}

/** What the columns of a timeline's memory are. */
export const memoryNames = ({ tables }: KvLayout): Array<string> => [
  ...tables.map(({ kind, segment }) => (kind === "carry" ? `carry ${segment}` : `segment ${segment} ${kind}`)),
  "shared prefixes",
  "prefixes nobody uses",
]

const cdfPoints = 200

/** Points so that no two differ by less than one part of the curve's height. */
const thinned = (points: ReadonlyArray<readonly [number, number]>): Array<readonly [number, number]> => {
  const kept: Array<readonly [number, number]> = []
  let last = -1
  for (const [micros, share] of points) {
    if (share - last < 1 / cdfPoints && share < 1) continue
    kept.push([micros / 1000, share])
    last = share
  }
  return kept
}
