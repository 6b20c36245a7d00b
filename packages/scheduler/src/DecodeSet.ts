import type { KvLayout } from "@uniprefill/model/KvLayout"
import { IntList } from "./IntList.ts"
import type { Memory } from "./Memory.ts"
import { removeFrom, type Request } from "./Request.ts"
import type { StepLoad } from "./StepLoad.ts"
import type { StepPlan } from "./StepPlan.ts"

/**
 * The requests that decode, one row a step each, and their part of a step's load. Changes of membership go into the plans;
 * between them a step costs a few additions a member.
 */
export class DecodeSet {
  readonly members: Array<Request> = []
  /** To be members from the next plan on that finds a page for their next row. */
  readonly joining: Array<Request> = []
  /** Slots to be taken out of the executor's decode set by the next plan. */
  private readonly leaving = new IntList()
  /** Their last row is planned: they leave with the next plan, unless they are gone by then. */
  private readonly expiring: Array<Request> = []
  private readonly needy: Array<Request> = []
  private readonly layout: KvLayout
  private readonly memory: Memory
  private readonly load: StepLoad

  constructor(layout: KvLayout, memory: Memory, load: StepLoad) {
    this.layout = layout
    this.memory = memory
    this.load = load
  }

  /** Takes those out whose last row has been planned. */
  expire(): void {
    for (let i = 0; i < this.expiring.length; i++) this.leave(this.expiring[i]!)
    this.expiring.length = 0
  }

  /** Those whose next row needs a page; valid until the next call. */
  lackingPages(): Array<Request> {
    const { needy, members, joining } = this
    needy.length = 0
    // By index, here and below: iterators would be the only objects that a steady step makes.
    for (let i = 0; i < members.length; i++) if (members[i]!.rowsUntilPage === 0) needy.push(members[i]!)
    for (let i = 0; i < joining.length; i++) needy.push(joining[i]!)
    return needy
  }

  /** Grants the pages for a request's next row and counts the rows until the next page. */
  grow(request: Request, plan: StepPlan): void {
    const { layout, memory } = this
    let least = Number.MAX_SAFE_INTEGER
    for (let t = 0; t < layout.tables.length; t++) {
      if (!memory.holdsOutput(request, t)) continue
      const table = layout.tables[t]!
      const rows = request.prefillRows(table.segment) + request.decodeRows
      if (table.kind === "sliding") memory.slideDecode(request, t, rows, plan)
      memory.grow(request, t, rows + 1, plan)
      const held = Math.floor(rows / layout.pageSize + 1) * layout.pageSize
      least = Math.min(least, held - rows)
    }
    request.rowsUntilPage = least
    // Whoever preempts it from here on waits for the step that has its pages.
    request.lastStep = plan.stepId
  }

  /** There is no page for a request's next row: it sits steps out until there is one. */
  stall(request: Request): void {
    if (this.leave(request)) this.joining.push(request)
  }

  /** Takes a member out with the next plan; false where it is none. */
  leave(request: Request): boolean {
    const { members, load } = this
    if (request.decodeIndex < 0) return false
    const last = members.pop()!
    if (last !== request) {
      members[request.decodeIndex] = last
      last.decodeIndex = request.decodeIndex
    }
    request.decodeIndex = -1
    load.decodeRows--
    for (let s = 0; s < load.decodeKeys.length; s++) load.leaveDecode(s, request.prefillRows(s) + request.decodeRows)
    this.leaving.push(request.slot)
    return true
  }

  /** Takes a request out of the plans to come. */
  retire(request: Request): void {
    if (this.joining.length > 0) removeFrom(this.joining, request)
    this.leave(request)
  }

  planLeaves(plan: StepPlan): void {
    plan.leaves.append(this.leaving)
    this.leaving.clear()
  }

  /** The executor has no decode set any more; nor has anybody here a slot. */
  reset(): void {
    this.leaving.clear()
    this.expiring.length = 0
  }

  /** Those that join and have a page for their row, and a row for every member. */
  planRows(plan: StepPlan): void {
    const { load, members, joining } = this
    const { stepId } = plan
    if (joining.length > 0) {
      let stalled = 0
      for (const request of joining) {
        if (request.rowsUntilPage === 0) {
          joining[stalled++] = request
          continue
        }
        plan.joins.push2(request.slot, -1)
        request.decodeIndex = members.length
        members.push(request)
        load.decodeRows++
        for (let s = 0; s < load.decodeKeys.length; s++) {
          load.joinDecode(s, request.prefillRows(s) + request.decodeRows)
        }
      }
      joining.length = stalled
    }
    load.advanceDecodes(members.length)
    for (let i = 0; i < members.length; i++) {
      const request = members[i]!
      request.rowsUntilPage--
      request.decodeRows++
      request.lastStep = stepId
      if (++request.plannedOutputs === request.maxTokens) this.expiring.push(request)
    }
  }
}
