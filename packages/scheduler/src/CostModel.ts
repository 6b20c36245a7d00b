import type { StepLoad } from "./StepLoad.ts"

/** Predicts how long a step takes. Deterministic: integers, and + − × ÷ on doubles. */
export interface CostModel {
  /** Integer µs. More work never takes less time. */
  readonly stepMicros: (load: StepLoad) => number
}

/** Rows of a step in place of its time: what a policy's token budget bounds. */
export const tokenCount: CostModel = { stepMicros: (load) => load.decodeRows + load.tokens }
