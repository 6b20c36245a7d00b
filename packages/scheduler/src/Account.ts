import type { Tenant } from "./Tenants.ts"

/** What a request has got and has had to bear: what fairness is decided by, and what is reported of it. */
export class Account {
  /** An account of its own until it is queued. */
  tenant: Tenant
  preemptions = 0
  /** Later prompts that were begun before it while it was the oldest that is not computed. */
  bypasses = 0
  /** Since when it is the oldest prompt that is not computed; −1 before. */
  frontSinceMicros = -1
  firstScheduledMicros = -1
  /** When its first token since it was given its slot was planned. */
  runsSinceMicros = 0
  /** It had paused for too long, and has just gone on: see Turns. */
  holdsTurn = false
  /** Since when it waits, or waited last, for the token after `pausedAt` others; −1 before. */
  pausedSinceMicros = 0
  pausedAt = -1
  /** When prefill work of this request was planned last. */
  lastServedMicros: number
  /** Served at the operator's lower p: see SloP. */
  isLowered = false
  /** Prompt tokens found in the cache when it was admitted first. */
  cachedTokens = 0

  constructor(tenant: Tenant, nowMicros: number) {
    this.tenant = tenant
    this.lastServedMicros = nowMicros
  }
}
