import type { Demand } from "./Demand.ts"
import type { Request } from "./Request.ts"

/** Slabs set aside for admitted requests and not granted yet: of each in its holdings, and of all together. */
export class Reservations {
  /** At most what is free, drains or is idle. */
  slabs = 0
  private readonly demand: Demand

  constructor(demand: Demand) {
    this.demand = demand
  }

  /** Sets a reservation to what the request can still need; called when that has shrunk, or it is admitted. */
  settle(request: Request): void {
    const { demand } = this
    this.add(request, demand.prefillCase(request) - demand.held(request) - request.holdings.reservedSlabs)
  }

  /** Sees that at least `slabs` slabs are reserved for a request. Requires that so many are unreserved or its own. */
  setAside(request: Request, slabs: number): void {
    const more = slabs - request.holdings.reservedSlabs
    if (more > 0) this.add(request, more)
  }

  /** Slabs of a reservation are granted, as many as it has of `slabs`. */
  granted(request: Request, slabs: number): void {
    this.add(request, -Math.min(slabs, request.holdings.reservedSlabs))
  }

  /** The request goes. */
  release(request: Request): void {
    this.add(request, -request.holdings.reservedSlabs)
  }

  /** So many more are set aside, or fewer where negative. */
  add(request: Request, slabs: number): void {
    request.holdings.reservedSlabs += slabs
    this.slabs += slabs
  }
}
