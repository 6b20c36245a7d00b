import { decode } from "@msgpack/msgpack"
import { Subscriber } from "zeromq"

/**
 * What a gateway's endpoint picker does, in small: it hears from every server which blocks of which prefixes it holds, reads
 * their load, and sends a request to where most of its prompt is, or else to where the least is going on.
 */
export class PrefixAwarePicker {
  readonly #servers: Array<PickedServer> = []
  #signs = 0

  /** Resolves once the server is heard: a subscription takes a while to reach the publisher, and what was said before is lost. */
  async add(url: string, endpoint: string, topic: string): Promise<void> {
    const server = new PickedServer(url)
    this.#servers.push(server)
    server.listen(endpoint, topic)
    while (!server.isHeard) {
      await this.#giveSign(url)
      await pause()
    }
  }

  /** Resolves once all is known that a server has published so far: it is heard in order. */
  async catchUp(url: string): Promise<void> {
    const server = this.#servers.find((one) => one.url === url)!
    const tokens = await this.#giveSign(url)
    while (server.cached(tokens) === 0) await pause()
  }

  /** Has a server compute a prompt that is like no other, which it then tells of. Returns its tokens. */
  async #giveSign(url: string): Promise<ReadonlyArray<number>> {
    const prompt = `Sign ${this.#signs++}. ${"word ".repeat(150)}`
    await (await post(`${url}/v1/completions`, { prompt, max_tokens: 1 })).text()
    return tokensOf(url, prompt)
  }

  /** The server for a prompt, and how many of its tokens it is known to hold. */
  async pick(prompt: string): Promise<{ readonly url: string; readonly cached: number }> {
    const [first] = this.#servers
    const tokens = await tokensOf(first!.url, prompt)
    const rated = await Promise.all(
      this.#servers.map(async (server) => ({
        url: server.url,
        cached: server.cached(tokens),
        load: await server.load(),
      })),
    )
    rated.sort((a, b) => b.cached - a.cached || a.load - b.load)
    return rated[0]!
  }

  get gaps(): number {
    return this.#servers.reduce((sum, { gaps }) => sum + gaps, 0)
  }

  close(): void {
    for (const server of this.#servers) server.close()
  }
}

const pause = () => new Promise((resolve) => setTimeout(resolve, 20))

const post = (url: string, body: object): Promise<Response> =>
  fetch(url, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) })

const tokensOf = async (url: string, prompt: string): Promise<ReadonlyArray<number>> => {
  const response = await post(`${url}/v1/completions/render`, { prompt, max_tokens: 1 })
  const [{ prompt_token_ids: tokens }] = (await response.json()) as [{ prompt_token_ids: Array<number> }]
  return tokens
}

type Event =
  | ["BlockStored", Array<bigint>, bigint | null, Array<number>, number]
  | ["BlockRemoved", Array<bigint>]
  | ["AllBlocksCleared"]

class PickedServer {
  readonly url: string
  gaps = 0
  readonly #subscriber = new Subscriber()
  /** The server's hash of a block → its whole prefix, written out. */
  readonly #prefixes = new Map<bigint, string>()
  readonly #known = new Set<string>()
  #blockSize = 0
  #next = -1n

  constructor(url: string) {
    this.url = url
  }

  get isHeard(): boolean {
    return this.#next >= 0n
  }

  listen(endpoint: string, topic: string): void {
    this.#subscriber.connect(endpoint)
    this.#subscriber.subscribe(topic)
    void (async () => {
      for await (const [, number, payload] of this.#subscriber) {
        const at = number!.readBigInt64BE(0)
        if (this.#next >= 0n && at !== this.#next) this.gaps++
        this.#next = at + 1n
        const [, events] = decode(payload!, { useBigInt64: true }) as [number, Array<Event>, number]
        for (const event of events) this.#take(event)
      }
    })().catch(() => {})
  }

  #take(event: Event): void {
    if (event[0] === "AllBlocksCleared") {
      this.#prefixes.clear()
      this.#known.clear()
    } else if (event[0] === "BlockRemoved") {
      for (const hash of event[1]) {
        this.#known.delete(this.#prefixes.get(hash) ?? "")
        this.#prefixes.delete(hash)
      }
    } else {
      const [, hashes, parent, tokens, blockSize] = event
      this.#blockSize = blockSize
      let prefix = parent === null ? "" : (this.#prefixes.get(parent) ?? "unknown")
      for (const [i, hash] of hashes.entries()) {
        prefix += `${tokens.slice(i * blockSize, (i + 1) * blockSize).join(",")};`
        this.#prefixes.set(hash, prefix)
        this.#known.add(prefix)
      }
    }
  }

  cached(tokens: ReadonlyArray<number>): number {
    if (this.#blockSize === 0) return 0
    let prefix = ""
    for (let from = 0; ; from += this.#blockSize) {
      if (from + this.#blockSize > tokens.length) return from
      prefix += `${tokens.slice(from, from + this.#blockSize).join(",")};`
      if (!this.#known.has(prefix)) return from
    }
  }

  /** Requests that run and wait, by the metrics that gateways read. */
  async load(): Promise<number> {
    const text = await (await fetch(`${this.url}/metrics`)).text()
    const gauge = (name: string) => Number(new RegExp(`^${name}\\{[^}]*\\} (.*)$`, "m").exec(text)![1])
    return gauge("vllm:num_requests_running") + gauge("vllm:num_requests_waiting") + gauge("vllm:kv_cache_usage_perc")
  }

  close(): void {
    this.#subscriber.close()
  }
}
