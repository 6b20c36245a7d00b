import type { Replica, StepRecord } from "../Replica.ts"
import type { Setup } from "../Setup.ts"
import { Simulation } from "../Simulation.ts"
import type { Workload } from "../workload/Workload.ts"
import { ObjectGraph, type Snapshot } from "./ObjectGraph.ts"
import { SimulationRecorder } from "./SimulationRecorder.ts"
import { requestDetail, stepState, type RequestDetail, type StepState } from "./StepState.ts"
import type { Timeline } from "./Timeline.ts"

/** A moment, and a request looked at more closely. */
export interface Moment {
  readonly state: StepState
  /** Null where the step's replica holds nothing of the request, or none was asked for. */
  readonly detail: RequestDetail | null
}

interface Checkpoint {
  /** Steps planned before it. */
  readonly steps: number
  readonly snapshot: Snapshot
}

/**
 * A simulation that can be looked at as it was at any of its steps: checkpoints are taken as it runs, and a step's state is
 * found by going on from the one before it.
 *
 *     ●────────●────────●──⌖─────●          ● checkpoint   ⌖ the step: put the checkpoint before it back, replay up to it
 *
 * Invariant: a replay makes the plans that the run made, since a simulation depends on nothing but what it holds.
 */
export class TimeMachine {
  /** Steps between two checkpoints. A step's state takes as long as simulating that many steps, and putting one back. */
  stepsBetween: number
  private readonly running: Simulation
  private readonly recorder: SimulationRecorder
  private readonly graph: ObjectGraph
  private readonly checkpoints: Array<Checkpoint> = []
  /** The step whose state is being looked for, by the number of steps planned before it; −1: none. */
  private wanted = -1
  private wantedRow = -1
  private found: Moment | null = null
  private isReplaying = false

  /** Fails with SetupError when the setup cannot be. */
  constructor(setup: Setup, workload: Workload, stepsBetween = 8192) {
    this.stepsBetween = stepsBetween
    const observer = {
      stepStarted: (replica: Replica, step: StepRecord, end: number) => this.onStep(replica, step, end),
    }
    this.running = new Simulation(setup, workload, observer)
    const { layout } = this.running.replicas[0]!.config
    this.recorder = new SimulationRecorder(setup, layout.segments.length, layout.tables.length)
    const constants = this.running.replicas.flatMap(({ config }) => [config.layout, config.schedule, config.costModel])
    this.graph = new ObjectGraph(this.running, [setup, workload, observer, ...constants])
    this.checkpoint()
  }

  /** The run itself, up to its end: what came of it is read before steps are looked at. */
  get simulation(): Simulation {
    return this.running
  }

  get steps(): number {
    return this.recorder.steps
  }

  get timeline(): Timeline {
    return this.recorder.timeline
  }

  /** Goes on for `instants` instants of the virtual clock. Not after a step was looked at. */
  advance(instants: number): void {
    const { running } = this
    if (this.isReplaying) throw new Error("a run goes on before its steps are looked at")
    running.advance(instants)
    if (running.counters.steps - this.checkpoints.at(-1)!.steps >= this.stepsBetween) this.checkpoint()
  }

  /**
   * The state right after step number `index` was planned, counted from 0 over all replicas in the order of planning, and what
   * request `row` owned then. Requires a step that has been planned.
   */
  at(index: number, row = -1): Moment {
    if (!(index >= 0 && index < this.steps)) throw new RangeError(`step ${index} of ${this.steps}`)
    this.isReplaying = true
    this.wanted = index
    this.wantedRow = row
    this.found = null
    this.approach(index)
    while (this.found === null) {
      if (this.running.isDone)
        throw new Error(`a replay ended before step ${index}: the run depends on something not saved`)
      this.running.advance(1)
    }
    this.wanted = -1
    return this.found
  }

  /** Puts the nearest checkpoint back, unless the simulation stands between that and the step already. */
  private approach(index: number): void {
    const { checkpoints, running } = this
    let nearest = checkpoints.length - 1
    while (checkpoints[nearest]!.steps > index) nearest--
    const { steps, snapshot } = checkpoints[nearest]!
    const at = running.counters.steps
    if (at > index || at < steps) this.graph.restore(snapshot)
  }

  private checkpoint(): void {
    this.checkpoints.push({ steps: this.running.counters.steps, snapshot: this.graph.take() })
  }

  private onStep(replica: Replica, step: StepRecord, endMicros: number): void {
    const { now, counters } = this.running
    if (!this.isReplaying) this.recorder.stepStarted(replica, step, endMicros, now)
    // The simulation has counted this step already.
    if (counters.steps - 1 !== this.wanted) return
    this.found = {
      state: stepState(replica, step, endMicros, now),
      detail: this.wantedRow < 0 ? null : requestDetail(replica, this.wantedRow),
    }
  }
}
