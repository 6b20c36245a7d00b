import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { CostModel } from "./CostModel.ts"
import type { Policy } from "./Policy.ts"

/** What the scheduler is told once. */
export interface SchedulerConfig {
  readonly layout: KvLayout
  readonly schedule: DropSchedule
  /** Slabs of the pool. */
  readonly slabs: number
  readonly slots: number
  /** Slots for recurrent states; 0 for models without such layers. */
  readonly stateSlots: number
  /**
   * In models with sliding windows or recurrent states a cached prefix can be gone on from every so many rows, and at its
   * last full page; 4,096 where nothing is said. Copies of states take state slots beyond one for each slot.
   */
  readonly resumeEvery?: number | undefined
  /**
   * Rows of prompts are cut at multiples of this, which is a multiple of 64 and divides a page where prefixes are cached; 64 where
   * nothing is said.
   */
  readonly chunkRows?: number | undefined
  /** Prefill and decode rows of one step; at least slots + chunkRows. */
  readonly maxRowsPerStep: number
  readonly costModel: CostModel
  readonly policy: Policy
  /** Predicted time that a step may take while requests decode. */
  readonly stepBudgetMicros: number
  /** The same while none does. */
  readonly idleStepBudgetMicros: number
  /** Share of every step's time that decodes cannot take from prompts; 0.2 where nothing is said. */
  readonly prefillFloor?: number | undefined
  /** Output tokens of each decode that memory is kept for when a prompt is admitted; 384 where nothing is said. */
  readonly headroomTokens?: number | undefined
  /** A preempted answer that has waited for so long takes the memory of others, see Turns; 0: none does, 9.25 s where nothing is said. */
  readonly maxPauseMicros?: number | undefined
  /** A prompt that has waited longer than this for its next chunk gets the smallest one whatever the budget. */
  readonly maxPrefillWaitMicros: number
  /**
   * p of prompts whose first token, or that of prompts behind them, would come after its deadline at the schedule's p; layers
   * that have a lower p keep it. Undefined: no prompt's p is lowered.
   */
  readonly sloP?: number | undefined
  /** The oldest prompt, passed over or preempted this often, goes first, and is nobody's victim. */
  readonly protectAfter: number
  /** So does one that has been the oldest for so long. */
  readonly protectAfterMicros: number
}
