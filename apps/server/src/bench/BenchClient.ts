import { Agent, request as sendHttp } from "node:http"
import { Agent as TlsAgent, request as sendHttps } from "node:https"
import type { BenchRequest } from "./BenchDataset.ts"

/** What became of one request. Times in seconds. */
export interface BenchOutcome {
  readonly success: boolean
  readonly error: string
  readonly promptTokens: number
  readonly outputTokens: number
  readonly text: string
  readonly ttft: number
  /** Between one piece of text and the next. */
  readonly itl: ReadonlyArray<number>
  readonly latency: number
  /** On the clock of performance.now(), in ms. */
  readonly startedMs: number
}

export interface BenchTarget {
  readonly url: URL
  readonly chat: boolean
  readonly model: string
  readonly apiKey: string | undefined
  readonly ignoreEos: boolean
  readonly temperature: number | undefined
}

/** Sends streaming requests over connections that are kept. */
export class BenchClient {
  readonly #target: BenchTarget
  readonly #agent: Agent

  constructor(target: BenchTarget) {
    this.#target = target
    const options = { keepAlive: true, maxSockets: Number.POSITIVE_INFINITY }
    this.#agent = target.url.protocol === "https:" ? new TlsAgent(options) : new Agent(options)
  }

  close(): void {
    this.#agent.destroy()
  }

  /** Never rejects: what goes wrong is the outcome's error. */
  send(request: BenchRequest): Promise<BenchOutcome> {
    const { url, apiKey } = this.#target
    const body = JSON.stringify(this.#bodyOf(request))
    const startedMs = performance.now()
    const watch = new StreamWatch(request, startedMs)
    return new Promise((resolve) => {
      const fail = (error: string) => resolve(watch.outcome(error))
      const call = (url.protocol === "https:" ? sendHttps : sendHttp)(
        url,
        {
          method: "POST",
          agent: this.#agent,
          headers: {
            "content-type": "application/json",
            "content-length": Buffer.byteLength(body),
            ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
          },
        },
        (response) => {
          response.setEncoding("utf8")
          const ok = response.statusCode === 200
          let refusal = ""
          response.on("data", (chunk: string) => {
            if (ok) watch.push(chunk)
            else if (refusal.length < 2048) refusal += chunk
          })
          response.on("error", (error) => fail(error.message))
          response.on("end", () => fail(ok ? "" : `${response.statusCode}: ${refusal}`))
        },
      )
      call.on("error", (error) => fail(error.message))
      call.end(body)
    })
  }

  #bodyOf({ prompt, outputTokens }: BenchRequest): object {
    const { chat, model, ignoreEos, temperature } = this.#target
    return {
      model,
      ...(chat
        ? { messages: [{ role: "user", content: prompt }], max_completion_tokens: outputTokens }
        : { prompt, max_tokens: outputTokens }),
      stream: true,
      stream_options: { include_usage: true },
      ...(ignoreEos ? { ignore_eos: true } : {}),
      ...(temperature === undefined ? {} : { temperature }),
    }
  }
}

/** Reads server-sent events and notes when text came. */
class StreamWatch {
  readonly #request: BenchRequest
  readonly #startedMs: number
  #rest = ""
  #text = ""
  #ttftMs = 0
  #lastMs = 0
  readonly #gaps: Array<number> = []
  #usage: { readonly prompt_tokens: number; readonly completion_tokens: number } | undefined
  #error = ""

  constructor(request: BenchRequest, startedMs: number) {
    this.#request = request
    this.#startedMs = startedMs
  }

  push(chunk: string): void {
    const now = performance.now()
    const lines = (this.#rest + chunk).split("\n")
    this.#rest = lines.pop()!
    for (const line of lines) if (line.startsWith("data: {")) this.#take(JSON.parse(line.slice(6)), now)
  }

  #take(event: any, now: number): void {
    if (event.error !== undefined) {
      this.#error = event.error.message
      return
    }
    this.#usage = event.usage ?? this.#usage
    const [choice] = event.choices
    const text = choice?.text ?? (choice?.delta?.reasoning_content ?? "") + (choice?.delta?.content ?? "")
    if (choice === undefined || (text === "" && choice.finish_reason === null)) return
    if (this.#ttftMs === 0) this.#ttftMs = now - this.#startedMs
    else if (text !== "") this.#gaps.push((now - this.#lastMs) / 1000)
    this.#lastMs = now
    this.#text += text
  }

  outcome(error: string): BenchOutcome {
    const failure = error !== "" ? error : this.#error !== "" ? this.#error : this.#ttftMs === 0 ? "no text came" : ""
    return {
      success: failure === "",
      error: failure,
      promptTokens: this.#usage?.prompt_tokens ?? this.#request.promptTokens,
      outputTokens: this.#usage?.completion_tokens ?? (this.#ttftMs === 0 ? 0 : 1 + this.#gaps.length),
      text: this.#text,
      ttft: this.#ttftMs / 1000,
      itl: this.#gaps,
      latency: (this.#lastMs - this.#startedMs) / 1000,
      startedMs: this.#startedMs,
    }
  }
}
