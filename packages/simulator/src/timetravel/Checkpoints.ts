import { IntList } from "@uniprefill/scheduler/IntList"
import { PageRun } from "@uniprefill/scheduler/PrefixTree"
import { type Copier, ObjectGraph, type Snapshot } from "./ObjectGraph.ts"

interface Checkpoint {
  /** Steps planned before it. */
  readonly steps: number
  readonly snapshot: Snapshot
}

/** Checkpoints beyond these lie farther and farther apart, each by this factor, so that their memory is bounded. */
const denseCheckpoints = 1000
const growth = 1.02

/** Runs of pages are most of what there is. */
const runs: Copier = {
  read: (run, values) => {
    if (!(run instanceof PageRun)) return false
    values.length = 11
    values[0] = run.parent
    values[1] = run.keys
    values[2] = run.slabs
    values[3] = run.windows
    values[4] = run.stateSlot
    values[5] = run.slabCount
    values[6] = run.users
    values[7] = run.older
    values[8] = run.newer
    values[9] = run.next
    values[10] = run.others
    return true
  },
  write: (run, values, at) => {
    if (!(run instanceof PageRun)) return false
    run.parent = values[at] as PageRun | null
    run.keys = values[at + 1] as PageRun["keys"]
    run.slabs = values[at + 2] as IntList
    run.stateSlot = values[at + 4] as number
    run.slabCount = values[at + 5] as number
    run.users = values[at + 6] as number
    run.older = values[at + 7] as PageRun | null
    run.newer = values[at + 8] as PageRun | null
    run.next = values[at + 9] as PageRun | null
    run.others = values[at + 10] as PageRun["others"]
    return true
  },
}

const isIntList = (object: object): object is IntList => object instanceof IntList

/**
 * Moments of a run that can be gone back to, each named by the number of steps planned before it. A step's state takes as long as
 * putting back the one before it, and going on from there to the step.
 */
export class Checkpoints {
  private factor = 1
  private readonly graph: ObjectGraph
  private readonly taken: Array<Checkpoint> = []

  /** `constants`: what the run refers to and never changes. */
  constructor(run: object, constants: Iterable<object>) {
    this.graph = new ObjectGraph(run, constants, runs, isIntList)
    this.take(0)
  }

  /** How many times as far apart as the first ones those to come should lie. */
  get spread(): number {
    return this.factor
  }

  /** Requires a moment between two instants of the run. */
  take(steps: number): void {
    if (this.taken.length > denseCheckpoints) this.factor *= growth
    this.taken.push({ steps, snapshot: this.graph.take() })
  }

  /** Takes none any more, and forgets what only taking needs. */
  seal(): void {
    this.graph.seal()
  }

  /**
   * Makes step `index`, from 0, one of the steps to come: puts the checkpoint before it back, unless the run, at `steps` planned,
   * stands between that and the step already.
   */
  approach(index: number, steps: number): void {
    const { taken } = this
    let nearest = taken.length - 1
    while (taken[nearest]!.steps > index) nearest--
    const checkpoint = taken[nearest]!
    if (steps > index || steps < checkpoint.steps) this.graph.restore(checkpoint.snapshot)
  }
}
