import type { ActionList } from "./Actions.ts"
import type { Departures } from "./Departures.ts"
import type { Request } from "./Request.ts"
import type { ServingState } from "./ServingState.ts"
import type { StepPlan } from "./StepPlan.ts"

/** Who makes room for whom. Comes before planning work: from there on nothing in a plan is taken back. */
export class Relief {
  private readonly state: ServingState
  private readonly departures: Departures
  /** What the queue was like when the policy last had nobody make room for anyone in it. */
  private askedChanges = -1
  /** When it is asked again although nothing has changed; and not before, although something has. */
  private askAtMicros = Number.POSITIVE_INFINITY
  private askFromMicros = 0

  constructor(state: ServingState, departures: Departures) {
    this.state = state
    this.departures = departures
  }

  /** The front prompt, once it is protected, may preempt anyone behind it, so that it is served. */
  forFront(nowMicros: number, actions: ActionList): void {
    const { memory, ranking } = this.state
    const front = ranking.protectedFront(this.state, nowMicros)
    if (front === null || front.phase !== "waiting") return
    while (!memory.canAdmit(front)) {
      const victim = ranking.behind(front, this.state, nowMicros)
      if (victim === null || this.departures.arePreempted) return
      this.preempt(victim, actions)
    }
  }

  /** Who has paused for too long takes the memory of others that have run for a while. */
  forPaused(nowMicros: number, actions: ActionList): void {
    const { state } = this
    const { memory, ranking, turns } = state
    const { next } = turns
    if (next === null) return
    while (state.running >= state.maxRunning || !memory.canAdmit(next)) {
      if (this.departures.arePreempted) return
      const victim = ranking.victimOfTurn(memory.lackingFor(next), state, nowMicros)
      if (victim === null) return
      this.preempt(victim, actions)
    }
  }

  /** Where the policy says so, what runs makes room for a more urgent prompt that waits: one victim at a time. */
  forUrgent(nowMicros: number, actions: ActionList): void {
    const { state } = this
    const { waiting, ranking, memory, config } = state
    if (config.policy.preempts === undefined || waiting.length === 0 || this.departures.arePreempted) return
    // A long queue is put in order where its prompts find no room, and there alone.
    if (!state.isCrowded && state.running < state.maxRunning) return
    if (nowMicros < this.askFromMicros || (this.askedChanges === state.changes && nowMicros < this.askAtMicros)) return
    const askers = this.askers(nowMicros)
    if (askers.length > 0) {
      const first = ranking.firstOf(askers, nowMicros)
      while (state.running + 1 + first.forks.length > state.maxRunning || !memory.canAdmit(first)) {
        const victim = ranking.preemptedBy(first, state, nowMicros)
        if (victim === null) break
        this.preempt(victim, actions)
        if (this.departures.arePreempted) return
      }
    }
    this.askedChanges = state.changes
  }

  /** The prompts for which the policy is asked: all, or where patience is asked of them the oldest of each tenant that had it. */
  private askers(nowMicros: number): ReadonlyArray<Request> {
    const { waiting, config, tenants } = this.state
    const patience = config.policy.preemptsAfterMicros
    if (patience === undefined) return [...waiting]
    this.askFromMicros = nowMicros + patience / 4
    this.askAtMicros = nowMicros + 4 * patience
    let asking = 0
    for (const tenant of tenants.all) if (tenant.waiting > 0) asking++
    const oldest = new Map<string, Request>()
    for (let i = 0; i < waiting.length && oldest.size < asking; i++) {
      const one = waiting.at(i)!
      if (one.arrivedMicros + patience > nowMicros) {
        this.askAtMicros = Math.min(this.askAtMicros, one.arrivedMicros + patience)
        break
      }
      if (!oldest.has(one.tenant)) oldest.set(one.tenant, one)
    }
    return [...oldest.values()]
  }

  /** Finds the pages for the next row of every decoding request, the first in rank first; those without wait or go. */
  growDecodes(plan: StepPlan, nowMicros: number, actions: ActionList): void {
    const { memory, decodes, ranking } = this.state
    const needy = decodes.lackingPages()
    if (needy.length === 0) return
    if (needy.length > 1) ranking.sort(needy, ranking.guardOf(this.state, nowMicros))
    for (const request of needy) {
      if (request.phase !== "decode" || request.flight.leaving) continue
      // Mostly there is memory for more than it can need, and nobody asks how much that is.
      if (memory.canGrow(request, memory.mostDecodeNeed)) {
        decodes.grow(request, plan)
        continue
      }
      const need = memory.decodeNeed(request)
      while (!memory.canGrow(request, need, true) && !this.departures.arePreempted) {
        const victim = ranking.victimFor(request, this.state, nowMicros) ?? request
        // What has ended gives its slabs back with the step in flight that holds it: sooner than starting over.
        if (victim === request && !this.departures.isEmpty) break
        this.preempt(victim, actions)
        if (victim === request) break
      }
      if (request.phase !== "decode" || request.flight.leaving) continue
      if (memory.canGrow(request, need)) decodes.grow(request, plan)
      // The slabs come free with a step in flight.
      else decodes.stall(request)
    }
  }

  private preempt(victim: Request, actions: ActionList): void {
    const { state, departures } = this
    state.preemptions++
    victim.account.preemptions++
    if (victim.flight.forking) {
      for (const fork of state.forks.disband(victim)) {
        if (fork.endReason === null) fork.account.preemptions++
        departures.leave(fork)
      }
    } else state.forks.leave(victim)
    departures.leave(victim)
    departures.settle(actions)
  }
}
