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
  readonly #predict: (request: Request, computedRows: number) => number
  readonly #hits: PrefixHits
  readonly #owned: (request: Request) => number
  /** What the last prediction was made for: progress changes it. */
  #segment = -1
  #rows = -1
  #sets = 0
  #predicted = 0

  /** Pages found in the cache, and at which state of it. */
  #found = 0
  #version = -1

  constructor(
    request: Request,
    predict: (request: Request, computedRows: number) => number,
    owned: (request: Request) => number,
    hits: PrefixHits,
  ) {
    this.id = request.id
    this.promptLength = request.promptLength
    this.priority = request.priority
    this.arrivedMicros = request.arrivedMicros
    this.deadlineMicros = request.deadlineMicros
    this.tenant = request.tenant
    this.#request = request
    this.#predict = predict
    this.#owned = owned
    this.#hits = hits
    Object.freeze(this)
  }

  get tenantServed(): number {
    return this.#request.account.tenant.served
  }

  get tenantRunning(): number {
    return this.#request.account.tenant.running
  }

  get segment(): number {
    return this.#request.progress.segment
  }

  get computedRows(): number {
    return this.#request.progress.computedRows
  }

  get outputs(): number {
    return this.#request.outputs
  }

  get ownedSlabs(): number {
    return this.#owned(this.#request)
  }

  get isDecoding(): boolean {
    return this.#request.phase === "decode"
  }

  get cachedTokens(): number {
    const request = this.#request
    if (request.phase !== "waiting") return request.account.cachedTokens
    return Math.min(request.promptLength, this.#rowsFound)
  }

  get remainingPrefillMicros(): number {
    const request = this.#request
    const { progress } = request
    const computed = request.phase === "waiting" ? this.#rowsFound : progress.computedRows
    const rows = progress.prefillRows(progress.segment) - computed
    const sets = progress.keptRows.length
    if (rows !== this.#rows || progress.segment !== this.#segment || sets !== this.#sets) {
      this.#segment = progress.segment
      this.#rows = rows
      this.#sets = sets
      this.#predicted = this.#predict(request, computed)
    }
    return this.#predicted
  }

  /** Rows of a waiting prompt that are cached now. */
  get #rowsFound(): number {
    if (this.#request.holdings.pageKeys.length === 0) return 0
    if (this.#version !== this.#hits.version()) {
      this.#version = this.#hits.version()
      this.#found = this.#hits.rows(this.#request)
    }
    return this.#found
  }
}

/** The prefix cache as views look at it. */
export interface PrefixHits {
  /** Changes with everything that decides how much of a prefix is found. */
  readonly version: () => number
  /** Rows of a prompt that waits that are cached. */
  readonly rows: (request: Request) => number
}
