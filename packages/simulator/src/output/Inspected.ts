import type { StepTerm } from "@uniprefill/cost-model/DeviceCostModel"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import type { Driver, DriverConfig } from "@uniprefill/scheduler/Driver"
import type { Policy } from "@uniprefill/scheduler/Policy"
import type { StepLoad } from "@uniprefill/scheduler/StepLoad"

/** A serving loop as steps of it are explained: a replica of a simulation, or a recorded loop that is replayed. */
export interface Inspected {
  readonly index: number
  readonly driver: Driver
  readonly config: Omit<DriverConfig, "costModel"> & { readonly costModel: ExplainedCosts }
  readonly device: {
    /** Work of the step planned last, with the rows that its selections really kept. */
    readonly load: StepLoad
    readonly readBacks: number
    /** Selections made so far. */
    readonly selections: number
    readonly contentOf: (slot: number) => { readonly key: number; readonly promptLength: number }
  }
  /** The policy in force. */
  readonly policy: Policy
  /** Time that the step planned last may be predicted to take. */
  readonly budgetMicros: number
  readonly readBackMicros: number
  /** Row of the workload of a request of the loop. */
  readonly rowOf: (id: number) => number
}

/** A cost model that may say what a step's time is made of, and what of that was not measured. */
export interface ExplainedCosts extends CostModel {
  readonly terms?: (load: StepLoad) => ReadonlyArray<StepTerm>
  readonly outside?: (load: StepLoad) => ReadonlyArray<string>
  readonly isOutside?: (load: StepLoad) => boolean
}
