import type { Request } from "./Request.ts"

/** Requests that wait, in order of arrival. Taking the first away costs the same however many there are. */
export class WaitingQueue {
  /** Prompt tokens of all of them. */
  tokens = 0
  /** Places before `head` are empty. */
  private requests: Array<Request | null> = []
  private head = 0

  get length(): number {
    return this.requests.length - this.head
  }

  /** The request that `index` others arrived before. */
  at(index: number): Request | undefined {
    return this.requests[this.head + index] ?? undefined
  }

  /** Puts a request at its place. */
  insert(request: Request): void {
    const at = this.placeOf(request)
    if (at === this.head && at > 0) this.requests[--this.head] = request
    else this.requests.splice(at, 0, request)
    this.tokens += request.promptLength
  }

  /** Takes a request out, where it is in. */
  remove(request: Request): void {
    const at = this.placeOf(request)
    if (this.requests[at] !== request) return
    this.tokens -= request.promptLength
    if (at > this.head) {
      this.requests.splice(at, 1)
      return
    }
    this.requests[this.head++] = null
    if (this.head < 256 || this.head * 2 < this.requests.length) return
    this.requests = this.requests.slice(this.head)
    this.head = 0
  }

  *[Symbol.iterator](): Generator<Request> {
    for (let i = 0; i < this.length; i++) yield this.at(i)!
  }

  /** Index of the first request that arrived no earlier. Ids ascend with arrival. */
  private placeOf(request: Request): number {
    const { requests } = this
    const last = requests[requests.length - 1]
    if (last === undefined || last === null || last.id < request.id) return requests.length
    let low = this.head
    let high = requests.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (requests[middle]!.id < request.id) low = middle + 1
      else high = middle
    }
    return low
  }
}
