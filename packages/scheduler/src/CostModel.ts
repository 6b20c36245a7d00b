import type { StepLoad } from "./StepLoad.ts"

/** Predicts how long a step takes. Deterministic: integers, and + − × ÷ on doubles. */
export interface CostModel {
  /** Integer µs. More work never takes less time. */
  readonly stepMicros: (load: StepLoad) => number
}
