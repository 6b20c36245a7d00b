import { Levels } from "./Levels.ts"

/** What is kept of a tenant: whoever shares a name in `Submission.tenant`. */
export interface Tenant {
  readonly name: string
  /** The virtual token counter: prompt tokens computed + {@link outputCharge} × output tokens. */
  served: number
  /** Requests that have not ended. */
  live: number
  /** Those of them that have a slot, and those that get a token with every result: see TokenPlaces. */
  running: number
  answering: number
  /** Prompts of those that wait, and their tokens. */
  waiting: number
  waitingTokens: number
  readonly levels: Levels
}

export const newTenant = (name: string): Tenant => ({
  name,
  served: 0,
  live: 0,
  running: 0,
  answering: 0,
  waiting: 0,
  waitingTokens: 0,
  levels: new Levels(),
})

/**
 * How much a tenant, or its requests of one priority, may have waiting, of a queue that takes `limit` and holds `waiting`: `share` times
 * what is left of it. However many flood the queue, a part is always left for those that do not.
 *
 * Source: the dynamic thresholds of Choudhury and Hahne, Dynamic queue length thresholds for shared-memory packet switches
 * (IEEE/ACM Transactions on Networking, 1998).
 */
export const queueRoom = (limit: number, waiting: number, share: number): number =>
  Math.floor(share * Math.max(0, limit - waiting))

/** How much of an empty queue requests alike may take that so many rules leave a part of it, each of what the one before leaves. */
export const queueRoomAlone = (limit: number, rules: number, share: number): number => {
  let taken = 1
  let whole = 1
  for (let rule = 0; rule < rules; rule++) {
    taken *= share
    whole += taken
  }
  return Math.min(limit, Math.ceil((limit * taken) / whole))
}

/** An output token counts as this many prompt tokens. */
export const outputCharge = 2

/**
 * So far ahead of the others a tenant comes to wait: prompts are charged when they are begun, and a short one would otherwise be
 * computed after all those that others have begun.
 */
export const aheadTokens = 4096

/** Tenants without requests whose counter is remembered. */
const maxIdleTenants = 4096

/**
 * A counter of work done for each tenant, for policies that share fairly.
 *
 * Counters compare what tenants got while they competed. A tenant none of whose prompts waits has got all that it asked for: when
 * one comes to wait, its counter is lifted, so that having asked for little earns nothing, be it by staying away or by a single
 * long answer. Where others wait, it is lifted to {@link aheadTokens} below the least of theirs, or below the one that was served last, if that
 * is more: the least may wait for something else than its turn. Where nobody waits, to the greatest there is: all start alike.
 *
 * Source: the virtual token counter of Sheng et al., Fairness in Serving Large Language Models (OSDI 2024).
 */
export class Tenants {
  private readonly live = new Map<string, Tenant>()
  /** The one that left longest ago first. */
  private readonly idle = new Map<string, Tenant>()
  /** The greatest counter of those that have left. */
  private mostLeft = 0
  /** The greatest counter so far of a tenant whose prompt was begun, before it was charged. */
  private reached = 0

  /** A tenant that has requests; undefined for one that has none. */
  of(name: string): Tenant | undefined {
    return this.live.get(name)
  }

  /** All tenants that have requests. */
  get all(): IterableIterator<Tenant> {
    return this.live.values()
  }

  /** A request of this tenant has arrived, and is about to wait. */
  enter(name: string): Tenant {
    let tenant = this.live.get(name)
    if (tenant === undefined) {
      tenant = this.idle.get(name) ?? newTenant(name)
      this.idle.delete(name)
      this.live.set(name, tenant)
    }
    if (tenant.waiting === 0) tenant.served = Math.max(tenant.served, this.levelFor(tenant))
    tenant.live++
    return tenant
  }

  /** A prompt of this tenant is begun, `tokens` of which are computed. */
  begin(tenant: Tenant, tokens: number): void {
    this.reached = Math.max(this.reached, tenant.served)
    tenant.served += tokens
  }

  /** A request of this tenant has ended. */
  leave(tenant: Tenant): void {
    if (--tenant.live > 0) return
    this.mostLeft = Math.max(this.mostLeft, tenant.served)
    this.live.delete(tenant.name)
    this.idle.set(tenant.name, tenant)
    if (this.idle.size <= maxIdleTenants) return
    for (const oldest of this.idle.keys()) {
      this.idle.delete(oldest)
      return
    }
  }

  /** Where the counter of a tenant starts that comes to wait. */
  private levelFor(tenant: Tenant): number {
    let least = Number.POSITIVE_INFINITY
    let most = this.mostLeft
    for (const other of this.live.values()) {
      if (other === tenant) continue
      if (other.waiting > 0) least = Math.min(least, other.served)
      else most = Math.max(most, other.served)
    }
    return least === Number.POSITIVE_INFINITY ? most : Math.max(least, this.reached) - aheadTokens
  }
}
