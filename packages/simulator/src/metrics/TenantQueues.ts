import type { Replica } from "../Replica.ts"
import type { Workload } from "../workload/Workload.ts"

/** Tenants that have series of their own, at most; the others have one together. */
const mostTenants = 8

/** Figures of a tenant in a sample, in this order. */
export const tenantFields = ["waiting", "running", "waitingTokens"] as const

/** Whose queues are looked at over time: the tenants with most requests first, then all others as one. None where there is but one. */
export class TenantQueues {
  readonly names: ReadonlyArray<string>
  /** Of the last count: the {@link tenantFields} of each name, one name after another. */
  readonly counts: Array<number>
  /** The series that each tenant of the workload counts for. */
  private readonly seriesOf: Int32Array
  private readonly tenants: ReadonlyArray<string>

  constructor({ tenant, tenants }: Workload) {
    const requests = tenants.map(() => 0)
    for (const one of tenant) requests[one]!++
    const ranked = tenants.map((_, one) => one).sort((a, b) => requests[b]! - requests[a]! || a - b)
    const own = tenants.length < 2 ? [] : ranked.slice(0, tenants.length > mostTenants ? mostTenants - 1 : mostTenants)
    this.tenants = tenants
    this.names = own.map((one) => tenants[one]!)
    if (own.length > 0 && own.length < tenants.length) this.names = [...this.names, "(others)"]
    this.seriesOf = new Int32Array(tenants.length).fill(this.names.length - 1)
    for (const [series, one] of own.entries()) this.seriesOf[one] = series
    this.counts = new Array<number>(this.names.length * tenantFields.length).fill(0)
  }

  /** Counts what waits and runs now, all replicas together. Cost: a look-up of each tenant that has requests. */
  count(replicas: ReadonlyArray<Replica>): ReadonlyArray<number> {
    const { counts, names, tenants, seriesOf } = this
    counts.fill(0)
    if (names.length === 0) return counts
    for (const { driver } of replicas) {
      const live = driver.scheduler.state.tenants
      for (let one = 0; one < tenants.length; one++) {
        const tenant = live.of(tenants[one]!)
        if (tenant === undefined) continue
        const at = seriesOf[one]! * tenantFields.length
        counts[at]! += tenant.waiting
        counts[at + 1]! += tenant.running
        counts[at + 2]! += tenant.waitingTokens
      }
    }
    return counts
  }
}
