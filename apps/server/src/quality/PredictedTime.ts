import type { Calibration } from "@uniprefill/cost-model/Calibration"
import { costModelOf } from "@uniprefill/cost-model/CostModelOf"
import type { ModelShape } from "@uniprefill/cost-model/ModelShape"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { StepLoad, windowsOf } from "@uniprefill/scheduler/StepLoad"

/**
 * Predicted time, µs, of a whole prompt in one step. `kept`: rows after each drop layer of the schedule, as shares of the prompt. Means
 * nothing beyond the comparison of schedules where the calibration is an assumption.
 */
export const predictedMicros = (
  shape: ModelShape,
  calibration: Calibration,
  schedule: DropSchedule,
  tokens: number,
  kept: ReadonlyArray<number>,
): number => {
  const layout = makeKvLayout(shape.spec, schedule, { pageSize: 128, kvElementBytes: 2, carryElementBytes: 4 })
  const { lastQ } = schedule
  const model = costModelOf({ calibration, shape, layout, lastQ, maxRowsPerStep: tokens })
  const load = new StepLoad(layout.segments.length, windowsOf(layout))
  load.items = 1
  load.tokens = tokens
  const rows = [1, ...kept].map((share) => Math.round(share * tokens))
  for (const [segment, own] of rows.entries()) {
    load.addRows(1, segment, 0, own, own, segment === 0 ? 0 : rows[segment - 1]!)
    if (segment < rows.length - 1) load.addSelection(1, segment, own)
  }
  return model.stepMicros(load)
}
