import type { DecodeClock } from "./DecodeClock.ts"

/** Which steps hold work of a request, and what it waits for because of them. */
export class Flight {
  /** While it decodes every step holds a row of it. */
  private clock: DecodeClock | null = null
  private lastUse = 0
  /** The step in flight that selects for this request, or computes for its forks: until its commit no prefill is planned. */
  awaitsStep = 0
  /** That step samples its first token. */
  samples = false
  /** Place in the list of decoding requests, −1 outside it. */
  decodeIndex = -1
  /** Prefill is done, and the forks have not been given their pages: the slot stays open until then. */
  forking = false
  /** The next plan copies the recurrent states, which have taken up this many rows; 0: it does not. */
  savesAt = 0
  /** On its way out, preempted or ended: nothing more is planned for it. */
  leaving = false
  /** A plan has closed the slot, which is still its own for the results of steps before. */
  closed = false

  /** The last step that holds work of this request; 0 when none does. */
  get lastStep(): number {
    return this.clock === null ? this.lastUse : Math.max(this.lastUse, this.clock.lastStep)
  }

  /** A plan holds work of the request, or refers to its slot. */
  usedBy(stepId: number): void {
    this.lastUse = stepId
  }

  /** It is number `index` of those that decode. */
  join(clock: DecodeClock, index: number): void {
    this.clock = clock
    this.decodeIndex = index
  }

  leave(): void {
    this.lastUse = this.lastStep
    this.clock = null
    this.decodeIndex = -1
  }

  restart(): void {
    this.awaitsStep = 0
    this.samples = false
    this.forking = false
    this.savesAt = 0
    this.leaving = false
    this.closed = false
  }
}
