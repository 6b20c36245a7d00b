import { DeviceCostModel, type DeviceCosts } from "@uniprefill/cost-model/DeviceCostModel"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import type { DriverConfig } from "@uniprefill/scheduler/Driver"
import { servingDefaults } from "@uniprefill/scheduler/ServingDefaults"
import type { Section } from "@uniprefill/scheduler/StepPlan"

/**
 * A run of the serving loop as data: everything that its decisions depend on, and a hash of each decision.
 *
 * A file holds one JSON value a line: the header, then the events in order. There is no text and there are no token ids in
 * it: of a token only its slot and whether it stops, of page keys and tenants only hashes.
 */
export interface RecordingHeader {
  readonly format: "uniprefill-recording"
  readonly version: 2
  /** Version of the code that made it. */
  readonly code: string
  readonly spec: ModelSpec
  readonly schedule: DropSchedule
  readonly layout: KvLayout
  /** What steps were predicted from, whole: replay looks nothing up. */
  readonly costs: DeviceCosts
  readonly policy: { readonly name: string; readonly options: Readonly<Record<string, number>> }
  /** Everything else that the loop was configured with. */
  readonly limits: RecordedLimits
}

export type RecordedLimits = Omit<DriverConfig, "layout" | "schedule" | "costModel" | "policy">

/** A submission, page keys and tenant hashed. */
export interface RecordedSubmission {
  readonly promptLength: number
  readonly maxTokens?: number | undefined
  readonly answers?: number | undefined
  readonly drops: boolean
  readonly fixedP?: boolean | undefined
  readonly priority?: number | undefined
  readonly tenant?: string | undefined
  readonly deadlineMicros?: number | undefined
  readonly pageKeys?: ReadonlyArray<string> | undefined
}

export type RecordedEvent = RecordedInput | RecordedPlan

/** What the loop was told. The measured time of a step is part of it: decisions may follow from it, and replay must too. */
export type RecordedInput =
  | {
      readonly e: "submit"
      readonly now: number
      readonly submission: RecordedSubmission
    }
  | { readonly e: "abort"; readonly id: number }
  | { readonly e: "finish"; readonly id: number }
  | { readonly e: "page"; readonly id: number; readonly key: string }
  | { readonly e: "tick"; readonly now: number }
  | {
      readonly e: "done"
      readonly step: number
      readonly deviceMicros: number
      /** Slot of each token sampled. */
      readonly slots: ReadonlyArray<number>
      /** `[place in slots, flags]` of tokens that have any: stop. */
      readonly flags: ReadonlyArray<number>
      /** As in a StepResult. */
      readonly selections: ReadonlyArray<number>
      readonly failures: ReadonlyArray<number>
    }
  | { readonly e: "failed" }

/** A plan that the loop made: integers and hash of each section that is not empty. */
export interface RecordedPlan {
  readonly e: "plan"
  readonly step: number
  readonly sections: { readonly [S in Section]?: readonly [length: number, hash: number] | undefined }
}

/** Fails with RangeError for a cost model that is not data, a test's for example. */
export const recordingHeader = (config: DriverConfig, spec: ModelSpec, code: string): RecordingHeader => {
  const { layout, schedule, costModel, policy, ...limits } = config
  return {
    format: "uniprefill-recording",
    version: 2,
    code,
    spec,
    schedule,
    layout,
    costs: costsOf(costModel),
    policy: { name: policy.name, options: policy.options ?? {} },
    limits: pick(limits),
  }
}

/** The numbers of a configuration, whatever else the object carries. */
const pick = (limits: RecordedLimits): RecordedLimits => {
  const { slabs, slots, stateSlots, resumeEvery, chunkRows, maxRowsPerStep, sloP } = limits
  const { stepBudgetMicros, idleStepBudgetMicros, maxPrefillWaitMicros } = limits
  const { protectAfter, protectAfterMicros, maxStepsInFlight, maxModelLen, maxWaiting, maxWaitingTokens } = limits
  const { prefillFloor, headroomTokens, maxPauseMicros, tenantShare } = { ...servingDefaults, ...defined(limits) }
  return {
    slabs,
    slots,
    stateSlots,
    ...(resumeEvery === undefined ? {} : { resumeEvery }),
    ...(chunkRows === undefined ? {} : { chunkRows }),
    ...(sloP === undefined ? {} : { sloP }),
    maxRowsPerStep,
    stepBudgetMicros,
    idleStepBudgetMicros,
    maxPrefillWaitMicros,
    protectAfter,
    protectAfterMicros,
    maxStepsInFlight,
    maxModelLen,
    maxWaiting,
    maxWaitingTokens,
    prefillFloor,
    headroomTokens,
    maxPauseMicros,
    tenantShare,
  }
}

/** What is said, without what is undefined. */
const defined = (limits: RecordedLimits): Partial<RecordedLimits> =>
  Object.fromEntries(Object.entries(limits).filter(([, value]) => value !== undefined))

const costsOf = (model: CostModel): DeviceCosts => {
  if (model instanceof DeviceCostModel) return model.costs
  throw new RangeError(`a ${model.constructor.name} cannot be recorded; a DeviceCostModel can`)
}
