import type { ActionList } from "./Actions.ts"
import { IntList } from "./IntList.ts"
import { removeFrom, type Request } from "./Request.ts"
import type { ServingState } from "./ServingState.ts"
import type { StepPlan } from "./StepPlan.ts"

/**
 * How requests give up their slots, ended or preempted.
 *
 *     leave ─▶ nothing more is planned ─▶ a plan closes the slot ─▶ the last step with work of it commits ─▶ gone, or waiting again
 *
 * The executor closes a slot with the next plan that does not use it, for plans are carried out in order. Slot and slabs are the
 * request's own until the steps that hold work of it have committed, since their results speak of the slot; tokens and
 * selections of one that was preempted are still taken.
 */
export class Departures {
  private readonly state: ServingState
  private readonly leaving: Array<Request> = []
  /** Slots of requests that are gone, which no plan has closed. */
  private readonly unclosed = new IntList()

  constructor(state: ServingState) {
    this.state = state
  }

  /** Whether slabs of a request that was preempted, or has ended, are about to come free. */
  get isEmpty(): boolean {
    return this.leaving.length === 0
  }

  /** Whether somebody who was preempted has not given up the slot. */
  get arePreempted(): boolean {
    for (let i = 0; i < this.leaving.length; i++) if (this.leaving[i]!.endReason === null) return true
    return false
  }

  /** Whether the next plan has slots to close. */
  get hasNews(): boolean {
    if (this.unclosed.length > 0) return true
    for (let i = 0; i < this.leaving.length; i++) if (!this.leaving[i]!.flight.closed) return true
    return false
  }

  /** Nothing more is planned for a request. One that waits is gone at once; others when {@link settle} finds them free. */
  leave(request: Request): void {
    const { flight } = request
    if (flight.leaving) return
    flight.leaving = true
    const { state } = this
    removeFrom(state.prefilling, request)
    state.decodes.retire(request)
    state.places.leave(request)
    state.turns.giveUp(request)
    if (request.phase === "waiting") state.dequeue(request)
    if (request.slot >= 0) this.leaving.push(request)
    else this.forget(request)
  }

  /** Lets go of those that no step in flight holds any more: they are gone, or wait again. */
  settle(actions: ActionList): void {
    if (this.leaving.length === 0) return
    let kept = 0
    for (let i = 0; i < this.leaving.length; i++) {
      const request = this.leaving[i]!
      if (this.state.isInFlight(request)) this.leaving[kept++] = request
      else if (request.endReason === null) this.startOver(request, actions)
      else {
        this.giveUpSlot(request)
        this.forget(request)
      }
    }
    this.leaving.length = kept
  }

  /** Closes the slots of those that leave, but where this plan still uses them, or forks have no pages yet. */
  planCloses(plan: StepPlan): void {
    plan.closes.append(this.unclosed)
    this.unclosed.clear()
    for (let i = 0; i < this.leaving.length; i++) {
      const request = this.leaving[i]!
      const { flight, slot } = request
      if (flight.closed || flight.lastStep === plan.stepId || (flight.forking && request.hasLiveForks)) continue
      plan.closes.push(slot)
      flight.closed = true
      this.state.memory.closing(slot)
    }
  }

  /** The executor has closed every slot. Requires that all who had one have left and been settled. */
  reset(): void {
    this.unclosed.clear()
  }

  /** A preempted request waits again, and with it the answers that would have gone on from its prefill. */
  private startOver(request: Request, actions: ActionList): void {
    const { state } = this
    for (const one of [request, ...request.forks]) {
      if (one.endReason !== null) continue
      this.giveUpSlot(one)
      one.contentId = state.nextContentId()
      actions.puts.push(one)
      // A fork's first token may have been planned in a step that failed.
      if (one !== request) one.progress.restart()
    }
    request.restart()
    state.enqueue(request)
  }

  private giveUpSlot(request: Request): void {
    const { slot, flight } = request
    this.state.changes++
    if (slot >= 0) {
      this.state.slots.giveUp(slot)
      if (!flight.closed) this.unclosed.push(slot)
      flight.closed = false
    }
    this.state.memory.release(request)
  }

  /** An ended request that owns nothing. */
  private forget(request: Request): void {
    const { state } = this
    state.forks.leave(request)
    state.requests.delete(request.id)
    state.tenants.leave(request.account.tenant)
    request.phase = "finished"
  }
}
