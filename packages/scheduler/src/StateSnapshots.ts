import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { Holdings } from "./Holdings.ts"
import type { PageRun, PrefixTree } from "./PrefixTree.ts"
import type { Request } from "./Request.ts"
import { StateOperation, type StepPlan } from "./StepPlan.ts"

/** A copy of a slot's recurrent states that a planned step makes. */
interface PlannedSnapshot {
  readonly step: number
  readonly request: Request
  /** The page that it belongs to. */
  readonly page: number
  readonly stateSlot: number
}

/**
 * Copies of recurrent states at the ends of cached pages: where prefill can resume in models that have them. A copy is planned once the
 * rows up to it are, and belongs to its page once the step that makes it has committed.
 */
export class StateSnapshots {
  private readonly pageSize: number
  private readonly cache: PrefixTree
  /** Requests whose states are to be copied before they go on. */
  private readonly unsaved: Array<Request> = []
  private readonly planned: Array<PlannedSnapshot> = []
  /** Pages with a copy of states, the oldest first. */
  private readonly pages: Array<PageRun> = []

  constructor(layout: KvLayout, cache: PrefixTree) {
    this.pageSize = layout.pageSize
    this.cache = cache
  }

  /** The states of a request, which have taken up `rows` rows, are copied by the next plan. */
  want(request: Request, rows: number): void {
    request.flight.savesAt = rows
    this.unsaved.push(request)
  }

  /** Whether the next plan has copies to make. */
  get hasNews(): boolean {
    return this.unsaved.length > 0
  }

  /** Copies the states that {@link want} named; `takeStateSlot` answers −1 where there is no room for one more. */
  plan(plan: StepPlan, takeStateSlot: () => number): void {
    if (this.unsaved.length === 0) return
    for (let i = 0; i < this.unsaved.length; i++) {
      const request = this.unsaved[i]!
      const rows = request.flight.savesAt
      request.flight.savesAt = 0
      if (rows === 0 || request.flight.leaving || request.slot < 0) continue
      const stateSlot = takeStateSlot()
      if (stateSlot < 0) continue
      plan.states.push3(request.slot, StateOperation.snapshot, stateSlot)
      request.flight.usedBy(plan.stepId)
      const page = rows / this.pageSize - 1
      this.planned.push({ step: plan.stepId, request, page, stateSlot })
    }
    this.unsaved.length = 0
  }

  /** The copies that steps up to `stepId` made belong to their pages; gives back those whose page is not cached. */
  committed(stepId: number, giveBack: (stateSlot: number) => void): void {
    while (this.planned.length > 0 && this.planned[0]!.step <= stepId) {
      const { request, page, stateSlot } = this.planned.shift()!
      const run = page < request.holdings.cachedPages ? runOfPage(request.holdings, page) : null
      if (run === null || run.stateSlot >= 0) giveBack(stateSlot)
      else {
        this.cache.addSnapshot(run, stateSlot)
        this.pages.push(run)
      }
    }
  }

  /** The state slot of the oldest copy that no request uses, which is lost; −1 when there is none. */
  forgetOldest(): number {
    const at = this.pages.findIndex((run) => run.users === 0)
    if (at < 0) return -1
    const { stateSlot } = this.pages[at]!
    this.pages[at]!.stateSlot = -1
    this.pages.splice(at, 1)
    return stateSlot
  }

  /** A page that has a copy is no longer cached. */
  evicted(run: PageRun): void {
    this.pages.splice(this.pages.indexOf(run), 1)
  }

  /** A step has failed: what was to be copied is lost. Gives back the state slots of copies that no page has. */
  reset(giveBack: (stateSlot: number) => void): void {
    this.unsaved.length = 0
    for (const { stateSlot } of this.planned.splice(0)) giveBack(stateSlot)
  }
}

/** The run that is page number `page` of a request's prefix. Requires runs of one page each. */
export const runOfPage = ({ lastRun, cachedPages }: Holdings, page: number): PageRun => {
  let run = lastRun!
  for (let p = cachedPages - 1; p > page; p--) run = run.parent!
  return run
}
