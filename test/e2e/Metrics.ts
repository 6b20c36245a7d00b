/** The metrics of a running server. */
export class Metrics {
  readonly #text: string

  private constructor(text: string) {
    this.#text = text
  }

  static async read(url: string): Promise<Metrics> {
    return new Metrics(await (await fetch(`${url}/metrics`)).text())
  }

  /** Sum over the series of a name whose labels match; undefined where there are none. */
  value(name: string, labels: Readonly<Record<string, string>> = {}): number | undefined {
    let sum: number | undefined
    for (const [, of, at] of this.#text.matchAll(new RegExp(`^${name}(?:\\{(.*)\\})? (\\S+)$`, "gm"))) {
      const matches = Object.entries(labels).every(([label, value]) => of?.includes(`${label}="${value}"`))
      if (matches) sum = (sum ?? 0) + Number(at)
    }
    return sum
  }

  /** What must be so whenever nothing runs. */
  get idle() {
    return {
      running: this.value("vllm:num_requests_running"),
      waiting: this.value("vllm:num_requests_waiting"),
      usage: this.value("vllm:kv_cache_usage_perc"),
      /** Answers that were started and have not ended under any reason. */
      unaccounted:
        (this.value("uniprefill:requests_started_total") ?? 0) - (this.value("vllm:request_success_total") ?? 0),
    }
  }
}

export const nothing = { running: 0, waiting: 0, usage: 0, unaccounted: 0 }

/** Waits until nothing runs, at most ten minutes: for what never ends. Returns what is left. */
export const settled = async (url: string) => {
  const deadline = performance.now() + 600_000
  for (;;) {
    const { idle } = await Metrics.read(url)
    if (JSON.stringify(idle) === JSON.stringify(nothing) || performance.now() > deadline) return idle
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}
