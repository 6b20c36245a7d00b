import type { Request } from "./Request.ts"

/** What planning does to slots, called before the step that the plan describes. */
export interface PlanSink {
  /** A request got its slot: no step refers to it yet. */
  readonly openSlot: (request: Request) => void
  /** The slot of a preempted request: no later step refers to it. */
  readonly closeSlot: (slot: number) => void
}

/** What committing a step reveals, called in the order in which it happened. */
export interface CommitSink {
  /** A request got an output token; `index` counts its output from 0. */
  readonly token: (request: Request, token: number, index: number, flags: number) => void
  /** A selection was made: `kept` rows of the set before it stay. */
  readonly selected: (request: Request, segment: number, bitmap: Uint32Array, kept: number, flags: number) => void
}
