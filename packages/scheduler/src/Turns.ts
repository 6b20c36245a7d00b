import { removeFrom, type Request } from "./Request.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { servingDefaults } from "./ServingDefaults.ts"

/** The share of the time that computing again may take while turns are taken. */
const shareOfTime = 0.2

/**
 * Answers that memory cannot hold together take turns: one that was preempted, and has waited for longer than `maxPauseMicros` for
 * its next token, takes the memory of others that have run for a quarter of that time at least, and keeps it for as long. But
 * every answer that goes on is computed again first: turns are taken only while that takes no more than a fifth of the
 * time, and by those alone that can be computed in a fifth of `maxPauseMicros`. So long answers pause for longer, rather than take
 * turns at being computed.
 *
 * Where a policy chooses victims, it chooses who waits, and nobody takes turns; nor under a token budget, the usual way.
 */
export class Turns {
  private maxPauseMicros = 0
  private leastMicros = 0
  private areTaken = false
  private nowMicros = 0
  /** Until then what was computed again takes its share of the time. */
  private notBeforeMicros = 0
  /** Those that have begun to answer, wait, and can take turns. */
  private readonly paused: Array<Request> = []
  /** Those whose turn has just begun. */
  private readonly holders: Array<Request> = []

  constructor(config: SchedulerConfig) {
    this.configure(config)
  }

  configure({ policy, maxPauseMicros = servingDefaults.maxPauseMicros }: SchedulerConfig): void {
    this.areTaken = maxPauseMicros > 0 && policy.victims === undefined && policy.tokenBudget === undefined
    this.maxPauseMicros = maxPauseMicros
    this.leastMicros = maxPauseMicros / 4
  }

  /** A plan is begun. */
  begin(nowMicros: number): void {
    this.nowMicros = nowMicros
    if (this.holders.length === 0) return
    let kept = 0
    for (const holder of this.holders) {
      if (!this.hasSettled(holder)) this.holders[kept++] = holder
      else holder.account.holdsTurn = false
    }
    this.holders.length = kept
  }

  /** Whose turn it is: of those that have paused for too long who has for longest; null where nobody has. */
  get next(): Request | null {
    if (this.paused.length === 0 || !this.areTaken || this.nowMicros < this.notBeforeMicros) return null
    let next: Request | null = null
    for (const one of this.paused) {
      if (next === null || this.isLonger(one, next)) next = one
    }
    return this.nowMicros - next!.account.pausedSinceMicros > this.maxPauseMicros ? next : null
  }

  /**
   * A request waits that has begun to answer: for its next token since before, where it has got none meanwhile. `prefillMicros`:
   * what computing it again is predicted to take.
   */
  pause(request: Request, prefillMicros: number): void {
    const { account, outputs } = request
    if (prefillMicros <= shareOfTime * this.maxPauseMicros) this.paused.push(request)
    if (account.pausedAt === outputs) return
    account.pausedAt = outputs
    account.pausedSinceMicros = this.nowMicros
  }

  /** It waits no longer. */
  leave(request: Request): void {
    removeFrom(this.paused, request)
  }

  /** A request that has begun to answer goes on, once it is computed again, which is predicted to take so long. */
  resume(prefillMicros: number): void {
    if (!this.areTaken) return
    this.notBeforeMicros = Math.max(this.notBeforeMicros, this.nowMicros) + prefillMicros / shareOfTime
  }

  /** It was its turn. */
  take(request: Request): void {
    request.account.holdsTurn = true
    this.holders.push(request)
  }

  /** Its turn is over, if it had one: it gives way, or has ended. */
  giveUp(request: Request): void {
    if (!request.account.holdsTurn) return
    request.account.holdsTurn = false
    removeFrom(this.holders, request)
  }

  /** The first token since a request was given its slot is planned. */
  runs({ account }: Request): void {
    account.runsSinceMicros = this.nowMicros
  }

  /**
   * Who of those that run and may go makes room of `slabs` slabs: the one with the fewest that has so many, else who has the most;
   * null where nobody has run for long enough.
   */
  victim(running: ReadonlyArray<Request>, slabs: number, owned: (request: Request) => number): Request | null {
    let victim: Request | null = null
    let most = 0
    for (const one of running) {
      if (!this.hasSettled(one)) continue
      const has = owned(one)
      if (victim !== null && (most < slabs ? has <= most : has < slabs || has >= most)) continue
      victim = one
      most = has
    }
    return victim
  }

  private hasSettled({ phase, account }: Request): boolean {
    return phase === "decode" && this.nowMicros - account.runsSinceMicros >= this.leastMicros
  }

  private isLonger(one: Request, other: Request): boolean {
    const sooner = one.account.pausedSinceMicros - other.account.pausedSinceMicros
    return sooner < 0 || (sooner === 0 && one.id < other.id)
  }
}
