import type { Driver } from "@uniprefill/scheduler/Driver"
import type { Seen } from "./LoopBooks.ts"

/** Whose turn it is to take memory, by books of its own: what computing again is predicted to take is all that it is told. */
export class TurnBooks {
  private readonly driver: Driver
  /** Until then nobody is given a turn, for what was computed again. */
  private notBefore = 0
  /** What that was predicted to take, in order of admission. */
  private readonly resumed: Array<number> = []

  constructor(driver: Driver, seenOf: (id: number) => Seen) {
    this.driver = driver
    const { turns } = driver.scheduler.state
    const pause = turns.pause.bind(turns)
    turns.pause = (request, prefillMicros) => {
      seenOf(request.id).prefillMicros = prefillMicros
      pause(request, prefillMicros)
    }
    const resume = turns.resume.bind(turns)
    turns.resume = (prefillMicros) => {
      this.resumed.push(prefillMicros)
      resume(prefillMicros)
    }
  }

  /** Of the answers that have paused for too long the one that has for longest, where the policy does not say who waits. */
  next(all: Iterable<Seen>, isLeaving: (one: Seen) => boolean, now: number): Seen | null {
    const { maxPauseMicros = 0 } = this.driver.settings
    if (!this.areTaken || now < this.notBefore) return null
    let next: Seen | null = null
    for (const one of all) {
      if (one.ended || isLeaving(one) || !one.startsOver || one.outputs === 0) continue
      if (now - one.pausedSince <= maxPauseMicros || 5 * one.prefillMicros > maxPauseMicros) continue
      if (next === null || one.pausedSince < next.pausedSince) next = one
    }
    return next
  }

  /** An answer goes on: what is computed again may take a fifth of the time. False where the loop has not counted it. */
  noteResumed(now: number): boolean {
    const micros = this.resumed.shift()
    if (micros === undefined) return false
    if (this.areTaken) this.notBefore = Math.max(this.notBefore, now) + 5 * micros
    return true
  }

  /** Under policies that say who makes room, nobody has a turn, and what they compute again is not counted. */
  private get areTaken(): boolean {
    const { policy, maxPauseMicros = 0 } = this.driver.settings
    return maxPauseMicros > 0 && policy.victims === undefined && policy.tokenBudget === undefined
  }

  /** Slots are kept for a while by those whose turn it was, and taken for one after it. */
  hasRunAWhile({ runsSince }: Seen, now: number): boolean {
    return now - runsSince >= this.driver.settings.maxPauseMicros! / 4
  }

  holdsTurn(one: Seen, now: number): boolean {
    return one.hasTurn && !this.hasRunAWhile(one, now)
  }
}
