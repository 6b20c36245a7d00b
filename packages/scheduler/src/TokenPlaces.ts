import type { Request } from "./Request.ts"
import { outputCharge, type Tenant } from "./Tenants.ts"

/** Of a place that nobody has. */
const nobody = -1

/** Counts results: a request that has a place got a token with each of them since it took it. */
export interface TokenClock {
  readonly results: number
}

/**
 * Whose token stands where in the results of steps.
 *
 * From one result to the next nearly every slot keeps its place. A request that does gets its token by the clock alone, and its
 * tenant is charged for all of its requests at once, so that a result costs a comparison for each row, and more only for
 * those that came, moved or left.
 */
export class TokenPlaces implements TokenClock {
  results = 0
  /** By place: the slot, its request, and the result that brings the last token that it may have. */
  private readonly slots: Int32Array
  readonly requests: Array<Request> = []
  readonly lastResults: Float64Array
  /** Places of the last result. */
  private count = 0
  /** By slot: its place. */
  private readonly placeOf: Int32Array
  /** Tenants whose requests have places. */
  private readonly tenants: Array<Tenant> = []

  constructor(slots: number) {
    this.slots = new Int32Array(slots).fill(nobody)
    this.lastResults = new Float64Array(slots)
    this.placeOf = new Int32Array(slots).fill(nobody)
  }

  /** The next result has so many places: who had a later one has none. */
  begin(count: number): void {
    for (let place = count; place < this.count; place++) this.vacate(place)
    this.count = count
  }

  /** The first place from `place` on where another slot stands in `records` than did in the last result; `count` for none. */
  firstMoved(records: Int32Array, place: number, count: number): number {
    const { slots } = this
    let at = place
    for (let i = 3 * place; at < count && slots[at] === records[i]; i += 3) at++
    return at
  }

  /** A request with a slot has a place from the result on that is being taken over. Whoever had the place has none. */
  put(request: Request, place: number): void {
    const { slot, progress } = request
    this.vacate(place)
    this.leave(request)
    this.slots[place] = slot
    this.requests[place] = request
    this.placeOf[slot] = place
    this.lastResults[place] = this.results + request.maxTokens - progress.outputs
    progress.getTokens(this)
    const { tenant } = request.account
    if (tenant.answering++ === 0) this.tenants.push(tenant)
  }

  /** Nothing more comes for a request but what steps in flight bring. */
  leave({ slot }: Request): void {
    const place = slot < 0 ? nobody : this.placeOf[slot]!
    if (place !== nobody) this.vacate(place)
  }

  /** Everybody who has a place has got a token. */
  advance(): void {
    this.results++
    const { tenants } = this
    for (let i = 0; i < tenants.length; i++) tenants[i]!.served += outputCharge * tenants[i]!.answering
  }

  /** Nobody has a place. */
  vacate(place: number): void {
    const slot = this.slots[place]!
    if (slot === nobody) return
    this.slots[place] = nobody
    this.placeOf[slot] = nobody
    const { progress, account } = this.requests[place]!
    progress.getNoTokens()
    if (--account.tenant.answering === 0) this.tenants.splice(this.tenants.indexOf(account.tenant), 1)
  }
}
