import type { Tenant, Tenants } from "@uniprefill/scheduler/Tenants"

/** Tenants that have series of their own, at most: a gateway names as many as it likes. */
export const mostTenantSeries = 64
/** The label of all the others together. */
export const otherTenants = "(others)"

/** What is told of a tenant. */
export type TenantQueue = Pick<Tenant, "running" | "waiting" | "waitingTokens">

/** Series of one tenant that are read from `load` until `remove`. */
export type TenantSeries = (tenant: string, load: () => TenantQueue) => { readonly remove: () => void }

/**
 * Which tenants have series: whoever came first and has requests. Where all places are taken, a newcomer gets that of a tenant
 * without requests; where there is none, it counts among {@link otherTenants}. A request without a tenant counts for none.
 */
export class TenantMetrics {
  private readonly tenants: Tenants
  private readonly series: TenantSeries
  private readonly shown = new Map<string, { readonly remove: () => void }>()
  private others: { readonly remove: () => void } | null = null

  constructor(tenants: Tenants, series: TenantSeries) {
    this.tenants = tenants
    this.series = series
  }

  /** A request of this tenant has been queued. */
  entered(name: string): void {
    if (name === "" || this.shown.has(name)) return
    if (this.shown.size >= mostTenantSeries && !this.makeRoom()) {
      this.others ??= this.series(otherTenants, () => this.rest())
      return
    }
    this.shown.set(
      name,
      this.series(name, () => this.tenants.of(name) ?? none),
    )
  }

  /** Takes every series away. */
  close(): void {
    for (const series of this.shown.values()) series.remove()
    this.shown.clear()
    this.others?.remove()
    this.others = null
  }

  /** Takes the series of a tenant without requests away; false where all have some. */
  private makeRoom(): boolean {
    for (const [name, series] of this.shown) {
      if (this.tenants.of(name) !== undefined) continue
      series.remove()
      this.shown.delete(name)
      return true
    }
    return false
  }

  private rest(): TenantQueue {
    const sum = { running: 0, waiting: 0, waitingTokens: 0 }
    for (const { name, running, waiting, waitingTokens } of this.tenants.all) {
      if (name === "" || this.shown.has(name)) continue
      sum.running += running
      sum.waiting += waiting
      sum.waitingTokens += waitingTokens
    }
    return sum
  }
}

const none: TenantQueue = { running: 0, waiting: 0, waitingTokens: 0 }
