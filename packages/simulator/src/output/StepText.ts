import { ItemField, sectionWidths } from "@uniprefill/scheduler/StepPlan"
import type { StepTerm } from "@uniprefill/cost-model/DeviceCostModel"
import { counted } from "@uniprefill/units/Counted"
import type { StepRecord } from "../Replica.ts"
import type { Inspected } from "./Inspected.ts"
import { columns } from "./Table.ts"

/** A step in words: when, what it holds, and the parts of its time, whose sum is the step's. */
export const stepText = (replica: Inspected, step: StepRecord, endMicros: number): string => {
  const { plan, deviceMicros, plannedMicros, startMicros } = step
  const { device, config } = replica
  const lines = [
    `step ${plan.stepId} of replica ${replica.index}: ${(deviceMicros / 1000).toFixed(3)} ms on the device, from ${(startMicros / 1e6).toFixed(6)} s to ${(endMicros / 1e6).toFixed(6)} s`,
    `predicted by the scheduler: ${(plannedMicros / 1000).toFixed(3)} ms (selections of fused items counted with every row kept)`,
    `${counted(device.load.decodeRows, "decode row")}, ${counted(device.load.items, "prefill item")}`,
  ]
  const sampled = new Set<number>()
  for (let i = 0; i < plan.samples.length; i += sectionWidths.samples) sampled.add(plan.samples.data[i]!)
  for (let i = 0, item = 0; i < plan.items.length; i += sectionWidths.items, item++) {
    const { data } = plan.items
    const { key: row, promptLength: promptTokens } = device.contentOf(data[i + ItemField.slot]!)
    const first = data[i + ItemField.firstRow]!
    const [from, to] = [data[i + ItemField.firstSegment]!, data[i + ItemField.lastSegment]!]
    const name = `${row + 1} (${promptTokens} prompt tokens)`
    lines.push(
      `  request ${name}: rows ${first} to ${first + data[i + ItemField.rows]! - 1} of segment ${from}${to > from ? `, on through segment ${to}` : ""}${sampled.has(item) ? ", first token" : ""}`,
    )
  }
  const terms = stepTerms(replica, step)
  lines.push(
    "",
    columns([["part", "µs"], ...terms.map((term) => [term.name, term.micros.toFixed(1)]), ["sum", `${deviceMicros}`]]),
  )
  const outside = config.costModel.outside?.(device.load) ?? []
  if (outside.length > 0) lines.push("", "outside of what was measured:", ...outside.map((line) => `  ${line}`))
  return lines.join("\n")
}

/** The parts of a step's time, whose sum it is; one part where the cost model names none. */
export const stepTerms = (
  { config, device, readBackMicros }: Inspected,
  { deviceMicros }: StepRecord,
): ReadonlyArray<StepTerm> => {
  const { costModel } = config
  if (costModel.terms === undefined) return [{ name: "measured", micros: deviceMicros }]
  const terms = [...costModel.terms(device.load)]
  const readBack = device.readBacks * readBackMicros
  if (readBack > 0)
    terms.push({ name: `${counted(device.readBacks, "selection")} read by the host in mid-step`, micros: readBack })
  const sum = terms.reduce((total, term) => total + term.micros, 0)
  if (Math.round(sum) !== deviceMicros) terms.push({ name: "slow step (fault or change)", micros: deviceMicros - sum })
  return terms
}
