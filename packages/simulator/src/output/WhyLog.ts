import type { Request } from "@uniprefill/scheduler/Request"
import { ItemField, sectionWidths } from "@uniprefill/scheduler/StepPlan"
import { counted } from "@uniprefill/units/Counted"
import type { Replica, StepRecord } from "../Replica.ts"
import type { Observer } from "../Simulation.ts"
import type { Inspected } from "./Inspected.ts"

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

/** Prompts that wait and are listed; those behind them are counted. */
const listed = 8

/** Why a prompt did or did not get work in a step. */
export interface Why {
  /** Its row of the workload. */
  readonly row: number
  readonly verdict: "gets" | "waits" | "is not admitted"
  readonly reason: string
}

export interface StepWhy {
  /** What the step holds and how much of its budget that takes. */
  readonly holds: string
  readonly prompts: ReadonlyArray<Why>
  /** Prompts that wait behind those listed. */
  readonly behind: number
}

export const whyLines = (replica: Inspected, step: StepRecord): Array<string> => {
  const { holds, prompts, behind } = whyOf(replica, step)
  const { plan, startMicros } = step
  const lines = [
    `step ${plan.stepId} replica ${replica.index} at ${(startMicros / 1e6).toFixed(6)} s: ${holds}`,
    ...prompts.map(
      ({ row, verdict, reason }) => `  request ${row + 1} ${verdict}${verdict === "gets" ? "" : ":"} ${reason}`,
    ),
  ]
  return behind > 0 ? [...lines, `  … and ${behind} behind them`] : lines
}

/** As the state right after planning shows it. */
export const whyOf = (replica: Inspected, { plan, plannedMicros }: StepRecord): StepWhy => {
  const { scheduler } = replica.driver
  const { load } = replica.device
  const { policy } = replica
  const budget = replica.budgetMicros
  const prompts: Array<Why> = []
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
    served.set(
      data[i + ItemField.slot]!,
      `${counted(chunk, "row")} of segment ${from}${to > from ? ` and on to ${to}` : ""}`,
    )
  }
  const tokens = policy.tokenBudget?.maxNumBatchedTokens
  const rows = load.decodeRows + load.rows.reduce((most, one) => Math.max(most, one), 0)
  const spent =
    tokens === undefined
      ? `${(plannedMicros / 1000).toFixed(1)} of ${(budget / 1000).toFixed(0)} ms planned`
      : `${rows} of ${tokens} rows planned`
  for (const request of scheduler.prefilling) {
    const row = replica.rowOf(request.id)
    const waits = (reason: string) => prompts.push({ row, verdict: "waits", reason })
    const got = served.get(request.slot)
    if (got !== undefined) prompts.push({ row, verdict: "gets", reason: got })
    else if (request.flight.awaitsStep > 0) waits(`step ${request.flight.awaitsStep}, in flight, selects for it`)
    else if (startSegment >= 0 && request.progress.segment !== startSegment)
      waits(`the step's items start at segment ${startSegment}, it is at segment ${request.progress.segment}`)
    else waits(`the step's budget is spent (${spent})`)
  }
  for (const request of [...scheduler.waiting].slice(0, listed)) {
    const reason = refusal(replica, request, startSegment, spent)
    prompts.push({ row: replica.rowOf(request.id), verdict: "is not admitted", reason })
  }
  return {
    holds: `${counted(load.decodeRows, "decode row")}, ${counted(load.items, "prefill item")}, ${spent}`,
    prompts,
    behind: Math.max(0, scheduler.waiting.length - listed),
  }
}

const refusal = ({ driver }: Inspected, request: Request, startSegment: number, spent: string): string => {
  const { memory } = driver.scheduler
  if (memory.slotsFree === 0) return "no slot is free"
  if (!memory.canAdmit(request))
    return `memory: ${memory.unreserved} slabs are free and unreserved, fewer than its prefill needs`
  if (startSegment > 0) return `the step's items start at segment ${startSegment}, a new prompt at 0`
  return `the step's budget is spent (${spent})`
}
