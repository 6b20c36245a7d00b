import { connect, type Socket } from "node:net"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { Fuzz } from "./Fuzz.ts"
import { Metrics, nothing, settled } from "./Metrics.ts"
import { ServeProcess } from "./ServeProcess.ts"
import { StreamClient } from "./StreamClient.ts"

let server: ServeProcess
let client: StreamClient
const witness = {
  prompt: "The quick brown fox",
  max_tokens: 60,
  temperature: 1,
  seed: 5,
  ignore_eos: true,
  stream: true,
}
let expected: string

/** The embedded model itself: what native code checks is checked. */
beforeAll(async () => {
  server = await ServeProcess.start("--log-level", "warn", "--max-connections", "1024")
  client = new StreamClient(server.url)
  expected = (await client.stream(witness)).text
  expect(expected.length).toBeGreaterThan(60)
})
afterAll(async () => {
  client.close()
  await server[Symbol.asyncDispose]()
})

/** Streams all the while, and is what it would be alone. */
const beside = async <A>(work: Promise<A>): Promise<A> => {
  const state = { going: true, streams: 0 }
  const watching = (async () => {
    while (state.going) {
      const { text, error, status } = await client.stream(witness)
      expect({ text, error, status }).toEqual({ text: expected, error: null, status: 200 })
      state.streams++
    }
  })()
  const result = await work.finally(() => (state.going = false))
  await watching
  expect(state.streams).toBeGreaterThan(0)
  return result
}

const open = (): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const { port } = new URL(server.url)
    const socket = connect(Number(port), "127.0.0.1", () => resolve(socket))
    socket.on("error", reject)
  })

const closed = (socket: Socket): Promise<string> =>
  new Promise((resolve) => {
    let text = ""
    socket.on("data", (chunk) => (text += chunk))
    socket.on("error", () => {})
    socket.on("close", () => resolve(text))
  })

const head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"

describe("whatever a client sends, it is its own fault alone", () => {
  it("10,000 bodies that are nearly right: no 5xx, well-formed answers, nothing left, no other stream touched", async () => {
    const fuzz = new Fuzz(20_261)
    const statuses = new Map<number, number>()
    const strange: Array<string> = []
    const one = async (requests: number) => {
      for (let i = 0; i < requests; i++) {
        const { path, body } = fuzz.next()
        const { status, text } = await client.postText(path, body)
        statuses.set(status, (statuses.get(status) ?? 0) + 1)
        const isKnown = [200, 400, 404, 413, 429].includes(status)
        if (!isKnown || /\\ud[89a-f]/i.test(text))
          strange.push(`${status} ${path} ${body.slice(0, 300)} → ${text.slice(0, 200)}`)
      }
    }
    await beside(Promise.all(Array.from({ length: 10 }, () => one(1000))))
    expect(strange).toEqual([])
    // Biased to what is computed with: many get that far.
    expect(statuses.get(200)).toBeGreaterThan(1000)
    expect(statuses.get(400)).toBeGreaterThan(3000)
    expect(await settled(server.url)).toEqual(nothing)
    expect((await fetch(`${server.url}/ready`)).status).toBe(200)
    const metrics = await Metrics.read(server.url)
    expect(metrics.value("http_requests_total", { status: "5xx" }) ?? 0).toBe(0)
  })

  it("bodies of 15 MB of anything", async () => {
    const bodies = [
      JSON.stringify({ prompt: "word ".repeat(3_000_000) }),
      "[".repeat(14_000_000),
      `{${Array.from({ length: 900_000 }, (_, i) => `"k${i}":1`).join(",")}}`,
      JSON.stringify({ prompt: Array(3_500_000).fill(512) }),
      JSON.stringify({ prompt: "x", stop: "y".repeat(14_000_000) }),
      JSON.stringify({ messages: [{ role: "user", content: "word ".repeat(3_000_000) }] }),
    ]
    const answers = await beside(
      Promise.all(
        bodies.map((body) =>
          client.postText(body.startsWith('{"messages"') ? "/v1/chat/completions" : "/v1/completions", body),
        ),
      ),
    )
    expect(answers.map(({ status }) => status)).toEqual(bodies.map(() => 400))
  })

  it("a reader that does not read is given up, and holds up nobody", async () => {
    const ended = async () =>
      (await Metrics.read(server.url)).value("vllm:request_success_total", { finished_reason: "abort" })!
    const before = await ended()
    const socket = await open()
    socket.pause()
    // Eight answers fill the kernel's buffers in fewer steps than one.
    const answers = 8
    const body = JSON.stringify({ ...witness, n: answers, max_tokens: 20_000, logprobs: 20 })
    socket.write(`${head}content-length: ${body.length}\r\n\r\n${body}`)
    await beside(
      (async () => {
        // It stops reading: the kernel's buffers fill, then the engine's, and the answers end.
        while ((await ended()) < before + answers) await new Promise((resolve) => setTimeout(resolve, 200))
      })(),
    )
    socket.destroy()
    expect(await settled(server.url)).toEqual(nothing)
  })

  it("clients that send slowly, open many connections and say nothing, or send headers without end", async () => {
    const idle = await Promise.all(Array.from({ length: 800 }, open))
    const slow = await Promise.all(Array.from({ length: 50 }, open))
    for (const socket of slow) socket.write("POST /v1/completions HTTP/1.1\r\nhost: x\r\n")
    const ends = slow.map(closed)
    const dripping = setInterval(() => {
      for (const socket of slow) if (!socket.destroyed) socket.write("x-slow: 1\r\n")
    }, 1000)
    const floods = await Promise.all(Array.from({ length: 20 }, open))
    const flooded = floods.map(closed)
    for (const socket of floods)
      socket.write(`GET /health HTTP/1.1\r\n${"x-flood: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(2000)}`)
    const [answers, refusals] = await beside(Promise.all([Promise.all(ends), Promise.all(flooded)]))
    clearInterval(dripping)
    for (const answer of answers) expect(answer).toMatch(/^HTTP\/1.1 408 /)
    for (const refusal of refusals) expect(refusal).toMatch(/^HTTP\/1.1 431 |^$/)
    expect((await fetch(`${server.url}/health`)).status).toBe(200)
    // Beyond the most connections that are kept, further ones are closed.
    let ended = 0
    for (let i = 0; i < 300; i++) {
      const end = open()
        .then(closed)
        .catch(() => "refused")
      // Not those that are kept, and closed when nothing has come for long.
      void end.then((text) => (ended += /^HTTP\/1.1 408 /.test(text) ? 0 : 1))
    }
    await expect.poll(() => ended).toBeGreaterThan(50)
    for (const socket of idle) socket.destroy()
    expect(await settled(server.url)).toEqual(nothing)
  })
})
