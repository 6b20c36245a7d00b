import type { QueuedPrompt, RunningRequest } from "./Policy.ts"
import type { Request } from "./Request.ts"

/**
 * What a policy sees of a request: the fields of its interfaces and nothing behind them, not even for code that ignores
 * types. One object for the request's life, so that a queue is shown without copying it.
 */
export class RequestView implements QueuedPrompt, RunningRequest {
  readonly id: number
  readonly promptLength: number
  readonly priority: number
  readonly arrivedMicros: number
  readonly deadlineMicros: number
  readonly tenant: string
  readonly #request: Request
  readonly #predict: (request: Request) => number
  readonly #owned: (request: Request) => number
  /** What the last prediction was made for: progress changes it. */
  #segment = -1
  #rows = -1
  #sets = 0
  #predicted = 0

  constructor(request: Request, predict: (request: Request) => number, owned: (request: Request) => number) {
    this.id = request.id
    this.promptLength = request.promptLength
    this.priority = request.priority
    this.arrivedMicros = request.arrivedMicros
    this.deadlineMicros = request.deadlineMicros
    this.tenant = request.tenant.name
    this.#request = request
    this.#predict = predict
    this.#owned = owned
    Object.freeze(this)
  }

  get tenantServed(): number {
    return this.#request.tenant.served
  }

  get segment(): number {
    return this.#request.segment
  }

  get computedRows(): number {
    return this.#request.computedRows
  }

  get outputs(): number {
    return this.#request.outputs
  }

  get ownedSlabs(): number {
    return this.#owned(this.#request)
  }

  get remainingPrefillMicros(): number {
    const request = this.#request
    const rows = request.prefillRows(request.segment) - request.computedRows
    const sets = request.keptRows.length
    if (rows !== this.#rows || request.segment !== this.#segment || sets !== this.#sets) {
      this.#segment = request.segment
      this.#rows = rows
      this.#sets = sets
      this.#predicted = this.#predict(request)
    }
    return this.#predicted
  }
}
