import { IntList } from "@uniprefill/scheduler/IntList"
import { CachedPage } from "@uniprefill/scheduler/PrefixCache"
import { type Copier, ObjectGraph, type Snapshot } from "./ObjectGraph.ts"

interface Checkpoint {
  /** Steps planned before it. */
  readonly steps: number
  readonly snapshot: Snapshot
}

/** Checkpoints beyond these lie farther and farther apart, each by this factor, so that their memory is bounded. */
const denseCheckpoints = 1000
const growth = 1.02

/** A page is most of what there is. Key, parent and slabs are its own for good. */
const pages: Copier = {
  read: (page, values) => {
    if (!(page instanceof CachedPage)) return false
    values.length = 8
    values[0] = page.windows
    values[1] = page.stateSlot
    values[2] = page.slabCount
    values[3] = page.users
    values[4] = page.older
    values[5] = page.newer
    values[6] = page.next
    values[7] = page.others
    return true
  },
  write: (page, values, at) => {
    if (!(page instanceof CachedPage)) return false
    page.stateSlot = values[at + 1] as number
    page.slabCount = values[at + 2] as number
    page.users = values[at + 3] as number
    page.older = values[at + 4] as CachedPage | null
    page.newer = values[at + 5] as CachedPage | null
    page.next = values[at + 6] as CachedPage | null
    page.others = values[at + 7] as CachedPage["others"]
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
    this.graph = new ObjectGraph(run, constants, pages, isIntList)
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
