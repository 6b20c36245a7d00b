import { type Context, Metric } from "effect"

/** Counts answers under the name and labels that vLLM's server has for them: 2xx, 4xx … by path and method. */
export class HttpMetrics {
  readonly #handlers: ReadonlySet<string>
  readonly #counters = new Map<string, Metric.Metric<number, unknown>>()

  /** Other paths than `handlers` count as one, so that nobody makes series without end. */
  constructor(handlers: Iterable<string>) {
    this.#handlers = new Set(handlers)
  }

  add(path: string, method: string, status: number, context: Context.Context<never>): void {
    const handler = this.#handlers.has(path) ? path : path.startsWith("/v1/models/") ? "/v1/models" : "other"
    const known = methods.has(method) ? method : "other"
    const group = `${Math.floor(status / 100)}xx`
    const key = `${handler} ${known} ${group}`
    let counter = this.#counters.get(key)
    if (counter === undefined) {
      counter = Metric.counter("http_requests_total", {
        description: "Requests answered, or given up by their clients (4xx).",
        attributes: { handler, method: known, status: group },
        incremental: true,
      })
      this.#counters.set(key, counter)
    }
    counter.updateUnsafe(1, context)
  }
}

const methods: ReadonlySet<string> = new Set(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
