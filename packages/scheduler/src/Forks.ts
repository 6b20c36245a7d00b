import type { Memory } from "./Memory.ts"
import { removeFrom, type Request } from "./Request.ts"
import type { StepPlan } from "./StepPlan.ts"

/**
 * Several answers to one prompt. The first, the leader, computes the prompt; the others, its forks, hold a slot and nothing
 * else until then. When the step that samples every answer's first token has committed, each fork gets the leader's pages
 * (full ones by reference, the partial last one as a copy), and all of them are requests like any other.
 */
export class Forks {
  /** Those whose prefill is done and whose forks have no pages yet. */
  private readonly leaders: Array<Request> = []
  private readonly memory: Memory

  constructor(memory: Memory) {
    this.memory = memory
  }

  /** Whether forks wait for their pages. */
  get waiting(): boolean {
    return this.leaders.length > 0
  }

  /** A leader's prefill is done. */
  begin(leader: Request): void {
    this.adopt(leader)
    leader.flight.forking = true
    this.leaders.push(leader)
  }

  /** Gives forks their pages, all those of a prompt or none, and adds to `joining` who may decode from now on. */
  plan(plan: StepPlan, joining: Array<Request>): void {
    if (this.leaders.length === 0) return
    let waiting = 0
    for (const leader of this.leaders) {
      const forks = leader.forks.filter((fork) => fork.endReason === null && hasOutputLeft(fork))
      if (forks.length * this.memory.forkNeed(leader) > this.memory.available) {
        // What is reserved still drains with a step in flight.
        this.leaders[waiting++] = leader
        continue
      }
      for (const fork of forks) {
        this.memory.fork(leader, fork, plan)
        fork.leader = null
        fork.flight.usedBy(plan.stepId)
        leader.flight.usedBy(plan.stepId)
        joining.push(fork)
      }
      leader.forks.length = 0
      leader.flight.forking = false
      this.memory.reservations.settle(leader)
      if (leader.endReason === null && hasOutputLeft(leader)) joining.push(leader)
    }
    this.leaders.length = waiting
  }

  /**
   * A leader is preempted whose forks have their first tokens, or will with this commit: they start over too, each by
   * itself. Returns them.
   */
  disband(leader: Request): ReadonlyArray<Request> {
    if (!leader.flight.forking) this.adopt(leader)
    const forks = leader.forks.splice(0)
    for (const fork of forks) fork.leader = null
    this.forget(leader)
    return forks
  }

  /** A request goes: a fork leaves its leader. */
  leave(request: Request): void {
    if (request.leader !== null) removeFrom(request.leader.forks, request)
    request.leader = null
    if (request.flight.forking) this.forget(request)
  }

  private forget(leader: Request): void {
    leader.flight.forking = false
    removeFrom(this.leaders, leader)
  }

  private adopt(leader: Request): void {
    for (const fork of leader.forks) {
      fork.adopt(leader)
      fork.phase = "decode"
    }
  }
}

const hasOutputLeft = ({ progress, maxTokens }: Request): boolean => progress.plannedOutputs < maxTokens
