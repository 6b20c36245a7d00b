import type { Request } from "@uniprefill/scheduler/Request"
import { ItemField, sectionWidths } from "@uniprefill/scheduler/StepPlan"
import type { Replica, StepRecord } from "../Replica.ts"
import type { Observer } from "../Simulation.ts"

/**
 * For every step, why each prompt that waited or was in prefill did or did not get work, as the state right after planning
 * shows it. Prompts further back are counted, not listed. Bounded: steps beyond `maxSteps` are not logged.
 */
export class WhyLog {
  readonly lines: Array<string> = []
  readonly observer: Observer
  private readonly maxSteps: number
  private steps = 0

  constructor(maxSteps = 100_000) {
    this.maxSteps = maxSteps
    this.observer = { stepStarted: (replica, step) => this.add(replica, step) }
  }

  private add(replica: Replica, step: StepRecord): void {
    if (this.steps++ >= this.maxSteps) {
      if (this.steps === this.maxSteps + 1) this.lines.push(`… more than ${this.maxSteps} steps: not logged`)
      return
    }
    this.lines.push(...whyLines(replica, step))
  }
}

const listed = 8

export const whyLines = (replica: Replica, { plan, plannedMicros, startMicros }: StepRecord): Array<string> => {
  const { scheduler } = replica.driver
  const { config, device } = replica
  const { load } = device
  const budget = load.decodeRows > 0 ? config.stepBudgetMicros : config.idleStepBudgetMicros
  const name = (id: { readonly id: number }) => replica.rowName(id.id)
  const served = new Map<number, string>()
  let startSegment = -1
  for (let i = 0; i < plan.items.length; i += sectionWidths.items) {
    const { data } = plan.items
    const [chunk, from, to] = [
      data[i + ItemField.rows]!,
      data[i + ItemField.firstSegment]!,
      data[i + ItemField.lastSegment]!,
    ]
    if (startSegment < 0) startSegment = from
    served.set(data[i + ItemField.slot]!, `${chunk} rows of segment ${from}${to > from ? ` and on to ${to}` : ""}`)
  }
  const tokens = config.policy.tokenBudget?.maxNumBatchedTokens
  const rows = load.decodeRows + load.rows.reduce((most, one) => Math.max(most, one), 0)
  const spent =
    tokens === undefined
      ? `${(plannedMicros / 1000).toFixed(1)} of ${(budget / 1000).toFixed(0)} ms planned`
      : `${rows} of ${tokens} rows planned`
  const lines = [
    `step ${plan.stepId} replica ${replica.index} at ${(startMicros / 1e6).toFixed(6)} s: ${load.decodeRows} decode rows, ${load.items} prefill items, ${spent}`,
  ]
  for (const request of scheduler.prefilling) {
    const got = served.get(request.slot)
    if (got !== undefined) lines.push(`  ${name(request)} gets ${got}`)
    else if (request.flight.awaitsStep > 0)
      lines.push(`  ${name(request)} waits: step ${request.flight.awaitsStep}, in flight, selects for it`)
    else if (startSegment >= 0 && request.progress.segment !== startSegment) {
      lines.push(
        `  ${name(request)} waits: the step's items start at segment ${startSegment}, it is at segment ${request.progress.segment}`,
      )
    } else lines.push(`  ${name(request)} waits: the step's budget is spent (${spent})`)
  }
  for (const request of [...scheduler.waiting].slice(0, listed)) {
    lines.push(`  ${name(request)} is not admitted: ${refusal(replica, request, startSegment, spent)}`)
  }
  if (scheduler.waiting.length > listed) lines.push(`  … and ${scheduler.waiting.length - listed} behind them`)
  return lines
}

const refusal = ({ driver }: Replica, request: Request, startSegment: number, spent: string): string => {
  const { memory } = driver.scheduler
  if (memory.slotsFree === 0) return "no slot is free"
  if (!memory.canAdmit(request))
    return `memory: ${memory.unreserved} slabs are free and unreserved, fewer than its prefill needs`
  if (startSegment > 0) return `the step's items start at segment ${startSegment}, a new prompt at 0`
  return `the step's budget is spent (${spent})`
}
