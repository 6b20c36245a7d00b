import { Agent, type IncomingMessage, request as send } from "node:http"

export interface Streamed {
  readonly status: number
  readonly text: string
  /** Events that brought text or an end. */
  readonly chunks: number
  readonly finish: string | null
  readonly error: string | null
  /** Until the first of them, in ms. */
  readonly firstMs: number
  /** Longest time between two of them, in ms. */
  readonly longestGapMs: number
  /** Whether it was given up after `leaveAfter` events. */
  readonly left: boolean
}

/** A client that costs little itself: HTTP over kept connections, and no parsing but of the lines that matter. */
export class StreamClient {
  readonly #url: URL
  readonly #agent = new Agent({ keepAlive: true, maxSockets: 2048 })

  constructor(url: string) {
    this.#url = new URL(url)
  }

  close(): void {
    this.#agent.destroy()
  }

  /** Streams a completion; with `leaveAfter`, goes away after so many events. */
  stream(body: object, leaveAfter = Number.POSITIVE_INFINITY): Promise<Streamed> {
    const began = performance.now()
    return new Promise((resolve, reject) => {
      const seen = {
        text: "",
        chunks: 0,
        finish: null as string | null,
        error: null as string | null,
        last: 0,
        longest: 0,
        first: 0,
      }
      const end = (status: number, left: boolean) =>
        resolve({
          status,
          text: seen.text,
          chunks: seen.chunks,
          finish: seen.finish,
          error: seen.error,
          firstMs: seen.first,
          longestGapMs: seen.longest,
          left,
        })
      const call = this.#call("/v1/completions", JSON.stringify(body), (response) => {
        const status = response.statusCode!
        let rest = ""
        response.setEncoding("utf8")
        response.on("data", (chunk: string) => {
          const now = performance.now()
          const lines = (rest + chunk).split("\n")
          rest = lines.pop()!
          for (const line of lines) {
            if (!line.startsWith("data: {")) continue
            const event = JSON.parse(line.slice(6))
            if (event.error !== undefined) {
              seen.error = event.error.message
              continue
            }
            const [choice] = event.choices
            if (choice === undefined) continue
            if (seen.chunks++ === 0) seen.first = now - began
            else seen.longest = Math.max(seen.longest, now - seen.last)
            seen.last = now
            seen.text += choice.text
            seen.finish = choice.finish_reason ?? seen.finish
            if (seen.chunks >= leaveAfter && seen.finish === null) {
              call.destroy()
              return end(status, true)
            }
          }
        })
        response.on("end", () => {
          if (status !== 200) seen.error = rest
          end(status, false)
        })
        response.on("error", () => end(status, true))
      })
      call.on("error", (error) => (seen.chunks >= leaveAfter ? end(200, true) : reject(error)))
    })
  }

  post(path: string, body: object): Promise<{ readonly status: number; readonly text: string }> {
    return this.postText(path, JSON.stringify(body))
  }

  postText(path: string, text: string): Promise<{ readonly status: number; readonly text: string }> {
    return new Promise((resolve, reject) => {
      const call = this.#call(path, text, (response) => {
        let body = ""
        response.setEncoding("utf8")
        response.on("data", (chunk: string) => (body += chunk))
        response.on("end", () => resolve({ status: response.statusCode!, text: body }))
        response.on("error", reject)
      })
      call.on("error", reject)
    })
  }

  #call(path: string, text: string, onResponse: (response: IncomingMessage) => void) {
    const bytes = Buffer.from(text, "utf8")
    const call = send(
      new URL(path, this.#url),
      {
        method: "POST",
        agent: this.#agent,
        headers: { "content-type": "application/json", "content-length": bytes.byteLength },
      },
      onResponse,
    )
    call.end(bytes)
    return call
  }
}
