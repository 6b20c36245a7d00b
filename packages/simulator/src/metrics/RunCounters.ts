import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { GapHistogram } from "./GapHistogram.ts"
import { OccupancyLog } from "./OccupancyLog.ts"

/** What a run counts besides its requests. */
export class RunCounters {
  steps = 0
  /** Steps with rows: others only close slots or move memory. */
  computingSteps = 0
  /** Time that devices computed, µs. */
  busyMicros = 0
  /** Everything that steps held, added up. */
  readonly work: StepLoad
  stepsFailed = 0
  maxStepMicros = 0
  /** Steps whose time rests on something that was not measured. */
  stepsOutsideCalibration = 0
  /** Gaps between the tokens of a request, of all requests. */
  readonly gaps = new GapHistogram()
  /** Rows of each kept set, and prompt rows, of the requests that drop and have finished their prefill. */
  readonly keptRows: Float64Array
  droppingPromptRows = 0
  readonly occupancy: OccupancyLog

  constructor(segments: number, tables: number, tenantCounts = 0) {
    this.work = new StepLoad(segments)
    this.keptRows = new Float64Array(segments)
    this.occupancy = new OccupancyLog(tables, tenantCounts)
  }
}
