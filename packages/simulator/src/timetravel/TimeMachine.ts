import type { Replica, StepRecord } from "../Replica.ts"
import type { Setup } from "../Setup.ts"
import { Simulation } from "../Simulation.ts"
import type { Workload } from "../workload/Workload.ts"
import { Checkpoints } from "./Checkpoints.ts"
import { LoopRecorder } from "./LoopRecorder.ts"
import { requestDetail, stepState, type RequestDetail, type StepState } from "./StepState.ts"
import type { Timeline } from "./Timeline.ts"

/** A moment, and a request looked at more closely. */
export interface Moment {
  readonly state: StepState
  /** Null where the step's replica holds nothing of the request, or none was asked for. */
  readonly detail: RequestDetail | null
}

/**
 * A simulation that can be looked at as it was at any of its steps: whoever runs it takes checkpoints now and then, and a
 * step's state is found by going on from the one before it.
 *
 *     ●────────●────────●──⌖─────●          ● checkpoint   ⌖ the step: put the checkpoint before it back, replay up to it
 *
 * Invariant: a replay makes the plans that the run made, since a simulation depends on nothing but what it holds.
 */
export class TimeMachine {
  /** The run itself, up to its end: what came of it is read before steps are looked at. */
  readonly simulation: Simulation
  readonly checkpoints: Checkpoints
  private readonly recorder: LoopRecorder
  /** The step whose state is being looked for, by the number of steps planned before it; −1: none. */
  private wanted = -1
  private wantedRow = -1
  private found: Moment | null = null
  private isReplaying = false

  /** Fails with SetupError when the setup cannot be. */
  constructor(setup: Setup, workload: Workload) {
    const observer = {
      stepStarted: (replica: Replica, step: StepRecord, end: number) => this.onStep(replica, step, end),
    }
    this.simulation = new Simulation(setup, workload, observer)
    const { layout } = this.simulation.replicas[0]!.config
    this.recorder = new LoopRecorder(setup.replicas, layout.segments.length, layout.tables.length)
    const constants = this.simulation.replicas.flatMap(({ config }) => [
      config.layout,
      config.schedule,
      config.costModel,
    ])
    this.checkpoints = new Checkpoints(this.simulation, [setup, workload, observer, ...constants])
  }

  get steps(): number {
    return this.recorder.steps
  }

  /** What the run was, once it is over: given away, and kept no more. */
  finish(): Timeline {
    this.checkpoints.seal()
    return this.recorder.finish()
  }

  /** Goes on for `instants` instants of the virtual clock. Not after a step was looked at. */
  advance(instants: number): void {
    if (this.isReplaying) throw new Error("a run goes on before its steps are looked at")
    this.simulation.advance(instants)
  }

  checkpoint(): void {
    this.checkpoints.take(this.steps)
  }

  /**
   * The state right after step number `index` was planned, counted from 0 over all replicas in the order of planning, and what
   * request `row` owned then. Requires a step that has been planned.
   */
  at(index: number, row = -1): Moment {
    if (!(index >= 0 && index < this.steps)) throw new RangeError(`step ${index} of ${this.steps}`)
    const { simulation } = this
    this.isReplaying = true
    this.wanted = index
    this.wantedRow = row
    this.found = null
    this.checkpoints.approach(index, simulation.counters.steps)
    while (this.found === null) {
      if (simulation.isDone)
        throw new Error(`a replay ended before step ${index}: the run depends on something not saved`)
      simulation.advance(1)
    }
    this.wanted = -1
    return this.found
  }

  private onStep(replica: Replica, step: StepRecord, endMicros: number): void {
    const { now, counters } = this.simulation
    if (!this.isReplaying) this.recorder.stepStarted(replica, step, endMicros, now)
    // The simulation has counted this step already.
    if (counters.steps - 1 !== this.wanted) return
    this.found = {
      state: stepState(replica, step, endMicros, now),
      detail: this.wantedRow < 0 ? null : requestDetail(replica, this.wantedRow),
    }
  }
}
