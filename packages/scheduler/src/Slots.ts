import type { Request } from "./Request.ts"

/** Which request has which slot. */
export class Slots {
  /** By slot; null where nobody has it. */
  readonly requests: Array<Request | null>

  constructor(slots: number) {
    this.requests = new Array<Request | null>(slots).fill(null)
  }

  at(slot: number): Request | null {
    return this.requests[slot] ?? null
  }

  take(request: Request): void {
    this.requests[request.slot] = request
    request.account.tenant.running++
  }

  /** Requires that somebody has it. */
  giveUp(slot: number): void {
    this.requests[slot]!.account.tenant.running--
    this.requests[slot] = null
  }
}
