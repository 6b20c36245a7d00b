import { IntList } from "./IntList.ts"
import type { Memory } from "./Memory.ts"
import { removeFrom, type Request } from "./Request.ts"
import type { StepPlan } from "./StepPlan.ts"

/**
 * Who has which slot, and which slots the executor is to close.
 *
 * A request that leaves keeps its slot and slabs until the steps that hold work of it have committed, since their results
 * speak of the slot. The executor closes it sooner: with the next plan that does not use it, for plans are carried out in order.
 */
export class Slots {
  /** By slot; null where nobody has it. */
  readonly requests: Array<Request | null>
  private readonly memory: Memory
  /** Requests on their way out whose slots no plan has closed, and such slots whose requests are gone already. */
  private readonly leaving: Array<Request> = []
  private readonly unclosed = new IntList()

  constructor(slots: number, memory: Memory) {
    this.requests = new Array<Request | null>(slots).fill(null)
    this.memory = memory
  }

  /** The request that has a slot; null for a slot that nobody has. */
  at(slot: number): Request | null {
    return this.requests[slot] ?? null
  }

  take(request: Request): void {
    this.requests[request.slot] = request
  }

  /** Whether the next plan has slots to close. */
  get hasNews(): boolean {
    return this.unclosed.length > 0 || this.leaving.length > 0
  }

  /** Nothing more is planned for a request: its slot is to be closed. */
  leave(request: Request): void {
    if (request.slot >= 0 && !request.closed && !this.leaving.includes(request)) this.leaving.push(request)
  }

  /** Closes the slots of those that leave, but where this plan still uses them, or forks have no pages yet. */
  planCloses(plan: StepPlan): void {
    plan.closes.append(this.unclosed)
    this.unclosed.clear()
    let kept = 0
    for (let i = 0; i < this.leaving.length; i++) {
      const request = this.leaving[i]!
      const isUsed = request.forking && request.forks.some((fork) => fork.endReason === null)
      if (isUsed || request.lastStep === plan.stepId) {
        this.leaving[kept++] = request
        continue
      }
      plan.closes.push(request.slot)
      request.closed = true
      this.memory.closing(request.slot)
    }
    this.leaving.length = kept
  }

  /** Gives back all that a request owns; the next plan closes its slot, where none has. */
  giveUp(request: Request): void {
    if (request.slot >= 0) {
      this.requests[request.slot] = null
      if (!request.closed) this.unclosed.push(request.slot)
      request.closed = false
      removeFrom(this.leaving, request)
    }
    this.memory.release(request)
  }

  /** The executor has closed them all. */
  reset(): void {
    this.leaving.length = 0
    this.unclosed.clear()
  }
}
