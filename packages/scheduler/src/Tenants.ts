/** What is kept of a tenant: whoever shares a name in `Submission.tenant`. */
export interface Tenant {
  readonly name: string
  /** The virtual token counter: prompt tokens computed + {@link outputCharge} × output tokens. */
  served: number
  /** Requests that have not ended. */
  live: number
  /** Those of them that have a slot. */
  running: number
  /** Prompts of those that wait, and their tokens. */
  waiting: number
  waitingTokens: number
}

export const newTenant = (name: string): Tenant => ({
  name,
  served: 0,
  live: 0,
  running: 0,
  waiting: 0,
  waitingTokens: 0,
})

/**
 * How much a tenant may have waiting, of a queue that takes `limit` and holds `waiting`: `share` times what is left of it. However many flood the queue, a part is always left for those that do not.
 *
 * Source: the dynamic thresholds of Choudhury and Hahne, Dynamic queue length thresholds for shared-memory packet switches
 * (IEEE/ACM Transactions on Networking, 1998).
 */
export const tenantRoom = (limit: number, waiting: number, share: number): number =>
  Math.floor(share * Math.max(0, limit - waiting))

/** An output token counts as this many prompt tokens. */
export const outputCharge = 2

/** Tenants without requests whose counter is remembered. */
const maxIdleTenants = 4096

/**
 * A counter of work done for each tenant, for policies that share fairly.
 *
 * A tenant that comes back is lifted to the least counter among those that have requests, so that time away earns nothing;
 * where nobody else has any, to that of the tenant that left last.
 *
 * Source: the virtual token counter of Sheng et al., Fairness in Serving Large Language Models (OSDI 2024).
 */
export class Tenants {
  private readonly live = new Map<string, Tenant>()
  /** The one that left longest ago first. */
  private readonly idle = new Map<string, Tenant>()
  private lastLeft = 0

  /** A tenant that has requests; undefined for one that has none. */
  of(name: string): Tenant | undefined {
    return this.live.get(name)
  }

  /** All tenants that have requests. */
  get all(): IterableIterator<Tenant> {
    return this.live.values()
  }

  /** A request of this tenant has arrived. */
  enter(name: string): Tenant {
    let tenant = this.live.get(name)
    if (tenant === undefined) {
      tenant = this.idle.get(name) ?? newTenant(name)
      this.idle.delete(name)
      let least = this.live.size === 0 ? this.lastLeft : Number.MAX_SAFE_INTEGER
      for (const other of this.live.values()) least = Math.min(least, other.served)
      tenant.served = Math.max(tenant.served, least)
      this.live.set(name, tenant)
    }
    tenant.live++
    return tenant
  }

  /** A request of this tenant has ended. */
  leave(tenant: Tenant): void {
    if (--tenant.live > 0) return
    this.lastLeft = tenant.served
    this.live.delete(tenant.name)
    this.idle.set(tenant.name, tenant)
    if (this.idle.size <= maxIdleTenants) return
    for (const oldest of this.idle.keys()) {
      this.idle.delete(oldest)
      return
    }
  }
}
