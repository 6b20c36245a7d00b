import type { KvLayout } from "@uniprefill/model/KvLayout"
import { pagesFor } from "@uniprefill/units/Units"
import { IntList } from "./IntList.ts"
import { DecodeClock } from "./DecodeClock.ts"
import type { Memory } from "./Memory.ts"
import { removeFrom, type Request } from "./Request.ts"
import type { StepLoad } from "./StepLoad.ts"
import type { StepPlan } from "./StepPlan.ts"

interface EarlyMember {
  readonly request: Request
  /** By segment. */
  readonly rows: ReadonlyArray<number>
}

/**
 * The requests that decode, one row a step each, and their part of a step's load. Changes of membership go into the plans;
 * between them a step costs a few additions a member.
 */
export class DecodeSet {
  readonly members: Array<Request> = []
  /** To be members from the next plan on that finds a page for their next row. */
  readonly joining: Array<Request> = []
  /** Counts the pages given to members: what they may still take has changed with each. */
  growths = 0
  /** Slots to be taken out of the executor's decode set by the next plan. */
  private readonly leaving = new IntList()
  /** Their last row is planned: they leave with the next plan, unless they are gone by then. */
  private readonly expiring: Array<Request> = []
  private readonly needy: Array<Request> = []
  /** Those whose kept sets are not known yet, with the rows that they were counted with. */
  private readonly early: Array<EarlyMember> = []
  private readonly clock = new DecodeClock()
  /** No member's last row is planned before the clock counts so many. */
  private expiresAt = Number.MAX_SAFE_INTEGER
  /** No member lacks a page for its next row before so many are planned. */
  private lacksAt = 0
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
    if (this.expiring.length === 0) return
    for (let i = 0; i < this.expiring.length; i++) this.leave(this.expiring[i]!)
    this.expiring.length = 0
  }

  /** Those whose next row needs a page; valid until the next call. */
  lackingPages(): Array<Request> {
    const { needy, members, joining } = this
    const planned = this.clock.rows
    // Cut to nothing it would give up its memory.
    while (needy.length > 0) needy.pop()
    // By index, here and below: iterators would be the only objects that a steady step makes.
    if (planned >= this.lacksAt) {
      this.lacksAt = Number.MAX_SAFE_INTEGER
      for (let i = 0; i < members.length; i++) {
        const { lacksAt } = members[i]!.holdings
        if (lacksAt <= planned) needy.push(members[i]!)
        else this.lacksAt = Math.min(this.lacksAt, lacksAt)
      }
    }
    for (let i = 0; i < joining.length; i++) needy.push(joining[i]!)
    return needy
  }

  /** A request's prompt is computed: it decodes from the next plan on that finds a page, where it does not already. */
  add(request: Request): void {
    if (request.flight.decodeIndex >= 0) this.settleEarly(request)
    else if (request.progress.plannedOutputs < request.maxTokens) this.joining.push(request)
  }

  /**
   * A step in flight computes the end of a prompt, with the selections on the way: its first decode row goes into the plan behind
   * it, so that the first gap is one step and not two. The pages are those of every row kept; what is too much is trimmed with
   * the step's result.
   */
  joinEarly(prefilling: ReadonlyArray<Request>, plan: StepPlan): void {
    for (let i = 0; i < prefilling.length; i++) {
      const request = prefilling[i]!
      const { progress, flight } = request
      if (!flight.samples || flight.decodeIndex >= 0 || request.forks.length > 0) continue
      if (progress.plannedOutputs >= request.maxTokens) continue
      const need = this.memory.decodeNeed(request)
      if (!this.memory.canGrow(request, need)) continue
      this.memory.reservations.setAside(request, need)
      this.growTables(request, plan, false)
      this.joining.push(request)
      this.early.push({ request, rows: this.layout.segments.map((_, s) => progress.prefillRows(s)) })
    }
  }

  /** Grants the pages for a request's next row and notes when it needs the next one. */
  grow(request: Request, plan: StepPlan): void {
    this.growTables(request, plan, true)
  }

  /** `slides`: its windows move on, for its rows are known. */
  private growTables(request: Request, plan: StepPlan, slides: boolean): void {
    const { memory } = this
    const { tables, pageSize } = this.layout
    const { progress } = request
    const decoded = progress.decodeRows
    let least = Number.MAX_SAFE_INTEGER
    for (let i = 0; i < memory.outputTables.length; i++) {
      const t = memory.outputTables[i]!
      if (!memory.holdsOutput(request, t)) continue
      const { segment, kind } = tables[t]!
      const rows = progress.prefillRows(segment) + decoded
      if (slides && kind === "sliding") memory.slideDecode(request, t, rows, plan)
      const inLastPage = rows % pageSize
      // A table holds the pages of its rows: only behind a full one it may lack the next.
      if (inLastPage === 0) memory.grow(request, t, rows + 1, plan)
      least = Math.min(least, pageSize - inLastPage)
    }
    this.growths++
    this.hasPagesFor(request, least)
    // Whoever preempts it from here on waits for the step that has its pages.
    request.flight.usedBy(plan.stepId)
  }

  /** The kept sets of one that joined early are known, and its tables trimmed to them. */
  private settleEarly(request: Request): void {
    const { layout, load, memory } = this
    const at = this.early.findIndex((one) => one.request === request)
    const [{ rows }] = this.early.splice(at, 1) as [EarlyMember]
    for (let s = 0; s < rows.length; s++) {
      load.leaveDecode(s, rows[s]! + request.progress.decodeRows)
      load.joinDecode(s, request.progress.tableRows(s))
    }
    let least = Number.MAX_SAFE_INTEGER
    for (let i = 0; i < memory.outputTables.length; i++) {
      const t = memory.outputTables[i]!
      if (!memory.holdsOutput(request, t)) continue
      const own = request.progress.tableRows(layout.tables[t]!.segment)
      least = Math.min(least, pagesFor(own, layout.pageSize) * layout.pageSize - own)
    }
    this.hasPagesFor(request, least)
  }

  /** Tables of a request have room for so many decode rows more. */
  private hasPagesFor({ holdings }: Request, rows: number): void {
    holdings.lacksAt = this.clock.rows + rows
    this.lacksAt = Math.min(this.lacksAt, holdings.lacksAt)
  }

  /** There is no page for a request's next row: it sits steps out until there is one. */
  stall(request: Request): void {
    if (this.leave(request)) this.joining.push(request)
  }

  /** Takes a member out with the next plan; false where it is none. */
  leave(request: Request): boolean {
    const { members, load } = this
    if (request.flight.decodeIndex < 0) return false
    const last = members.pop()!
    if (last !== request) {
      members[request.flight.decodeIndex] = last
      last.flight.decodeIndex = request.flight.decodeIndex
    }
    request.flight.leave()
    request.progress.leave()
    load.decodeRows--
    for (let s = 0; s < load.decodeKeys.length; s++) load.leaveDecode(s, request.progress.tableRows(s))
    this.leaving.push(request.slot)
    return true
  }

  /** Takes a request out of the plans to come. */
  retire(request: Request): void {
    if (this.early.length > 0) {
      const at = this.early.findIndex((one) => one.request === request)
      if (at >= 0) this.early.splice(at, 1)
    }
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
    this.early.length = 0
  }

  /** Those that join and have a page for their row, and a row for every member. */
  planRows(plan: StepPlan): void {
    const { load, members, joining, clock } = this
    if (joining.length > 0) {
      let stalled = 0
      for (const request of joining) {
        if (request.holdings.lacksAt <= clock.rows) {
          joining[stalled++] = request
          continue
        }
        plan.joins.push2(request.slot, -1)
        request.flight.join(clock, members.length)
        request.progress.join(clock)
        this.expireIn(request.maxTokens - request.progress.plannedOutputs)
        members.push(request)
        load.decodeRows++
        for (let s = 0; s < load.decodeKeys.length; s++) {
          load.joinDecode(s, request.progress.tableRows(s))
        }
      }
      while (joining.length > stalled) joining.pop()
    }
    clock.advance(plan.stepId)
    load.advanceDecodes(members.length)
    if (clock.rows >= this.expiresAt) this.findExpiring()
  }

  private findExpiring(): void {
    this.expiresAt = Number.MAX_SAFE_INTEGER
    for (const request of this.members) {
      const left = request.maxTokens - request.progress.plannedOutputs
      if (left === 0) this.expiring.push(request)
      else this.expireIn(left)
    }
  }

  /** Some member has so many rows to come. */
  private expireIn(rows: number): void {
    this.expiresAt = Math.min(this.expiresAt, this.clock.rows + rows)
  }
}
