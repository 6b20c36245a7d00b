import type { Adjustment } from "@uniprefill/scheduler/Driver"
import type { KeepProfile } from "./model/KeepProfile.ts"

/**
 * What is different from a moment on. A run with changes is the same run up to the first of them: that is what a branch is.
 * Requests that a change adds are rows of the workload, after all others.
 */
export interface Change {
  /** Takes effect after all events of this instant, before anything is planned in it. */
  readonly atMicros: number
  readonly adjustment: Adjustment
  /** What selections keep from here on; those made stay. */
  readonly keep?: KeepProfile | undefined
  /** Rows of the workload whose clients give up. */
  readonly abort: ReadonlyArray<number>
  readonly slow?: Slowdown | undefined
}

/** A device that takes longer for a while. */
export interface Slowdown {
  /** Index of the replica; null for all. */
  readonly replica: number | null
  readonly factor: number
  readonly untilMicros: number
}
