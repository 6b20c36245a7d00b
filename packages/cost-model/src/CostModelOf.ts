import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { Calibration, LinkCurve } from "./Calibration.ts"
import { DeviceCostModel } from "./DeviceCostModel.ts"
import type { ModelShape } from "./ModelShape.ts"
import { operationWork } from "./OperationWork.ts"

export interface CostModelOptions {
  readonly calibration: Calibration
  readonly shape: ModelShape
  readonly layout: KvLayout
  /** Queries that a selection scores. */
  readonly lastQ: number
  readonly maxRowsPerStep: number
  /** Devices that share the model, and their all-reduces. */
  readonly tensorParallel?: number | undefined
  readonly link?: LinkCurve | null | undefined
}

/** The prediction that the server plans by and the simulator simulates. */
export const costModelOf = (options: CostModelOptions): DeviceCostModel => {
  const { calibration, shape, layout, lastQ, maxRowsPerStep, tensorParallel = 1, link = null } = options
  return new DeviceCostModel({
    calibration,
    link,
    work: operationWork(shape, layout, tensorParallel),
    lastQ,
    maxRowsPerStep,
  })
}
