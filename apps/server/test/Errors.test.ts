import { ErrorBody } from "@uniprefill/openai/ErrorBody"
import { Schema } from "effect"
import OpenAI from "openai"
import { afterEach, describe, expect, it, test } from "vitest"
import { engineError } from "./FakeEngine.ts"
import { collect, eventually, rawExchange, startServer, type TestServer, type TestServerOptions } from "./TestServer.ts"

let server: TestServer
const start = async (options?: TestServerOptions) => (server = await startServer(options))
afterEach(() => server.close())

const errorOf = async (response: Response) => {
  const { error } = Schema.decodeUnknownSync(ErrorBody)(await response.json())
  expect(error.code).toBe(response.status)
  return { status: response.status, ...error }
}

describe("400 BadRequestError", () => {
  test.each([
    [
      "a bad field, by name",
      { prompt: "x", temperature: "hot" },
      "temperature",
      'temperature: expected number, got "hot"',
    ],
    [
      "a prompt too long, with both numbers",
      { prompt: Array(600).fill(5), max_tokens: 1 },
      "prompt",
      "this model takes at most 512 tokens, but prompt has 600 and max_tokens = 1 asks for 601 in all",
    ],
    [
      "an answer too long",
      { prompt: [5, 6], max_tokens: 511 },
      "max_tokens",
      "this model takes at most 512 tokens, but prompt has 2 and max_tokens = 511 asks for 513 in all",
    ],
    [
      "one of several prompts too long",
      { prompt: [[5], Array(600).fill(5)] },
      "prompt[1]",
      "this model takes at most 512 tokens, but prompt[1] has 600 and max_tokens = 16 asks for 616 in all",
    ],
    ["an empty prompt", { prompt: "" }, "prompt", "prompt has no tokens"],
    [
      "a token outside the vocabulary",
      { prompt: [5, 5000] },
      "prompt",
      "prompt[1]: token id 5000 is outside the vocabulary of 4096 tokens",
    ],
    [
      "a bias outside the vocabulary",
      { prompt: "x", logit_bias: { "4096": 1 } },
      "logit_bias",
      "logit_bias: token id 4096 is outside the vocabulary of 4096 tokens",
    ],
    [
      "p below the schedule's",
      { prompt: "x", uniprefill: { p: 0.5 } },
      "uniprefill.p",
      "uniprefill.p may only be raised: the model's schedule has p = 0.9, got 0.5",
    ],
    [
      "stream_options without stream",
      { prompt: "x", stream_options: { include_usage: true } },
      "stream_options",
      "stream_options is only allowed when stream is true",
    ],
  ])("%s", async (_, body, param, message) => {
    await start()
    const error = await errorOf(await server.post("/v1/completions", body))
    expect(error).toEqual({ status: 400, type: "BadRequestError", param, message, code: 400 })
    expect(server.engine.requests).toEqual([])
  })

  it("a body that is not JSON, is empty or is not UTF-8", async () => {
    await start()
    expect((await errorOf(await server.post("/v1/completions", "{nope"))).message).toContain("request body is not JSON")
    expect((await errorOf(await server.post("/v1/completions", ""))).message).toContain("it is empty")
    const response = await fetch(`${server.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: Uint8Array.from([0x22, 0xff, 0x22]),
    })
    expect((await errorOf(response)).status).toBe(400)
  })

  it("what the engine refuses, with the field it names", async () => {
    await start()
    server.engine.refuse = engineError("TooLong", "needs 900 slabs, there are 100", "prompt")
    const error = await errorOf(await server.post("/v1/completions", { prompt: "x" }))
    expect(error).toMatchObject({ status: 400, param: "prompt", message: "needs 900 slabs, there are 100" })
  })
})

describe("401", () => {
  it("without a key, with a wrong key, with a key that is a prefix", async () => {
    await start({ apiKeys: ["sesame", "second"] })
    const error = await errorOf(await fetch(`${server.url}/v1/models`))
    expect(error).toMatchObject({ status: 401, type: "AuthenticationError" })
    for (const key of ["wrong", "sesam", "sesame2", ""]) {
      const response = await fetch(`${server.url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })
      expect(response.status).toBe(401)
    }
    expect((await server.post("/tokenize", { prompt: "x" })).status).toBe(401)
    expect((await fetch(`${server.url}/v1/nothing`)).status).toBe(401)
  })

  it("not with either key, and not on the status paths", async () => {
    await start({ apiKeys: ["sesame", "second"] })
    for (const key of ["sesame", "second"]) {
      const response = await fetch(`${server.url}/v1/models`, { headers: { authorization: `Bearer ${key}` } })
      expect(response.status).toBe(200)
    }
    for (const path of ["/health", "/ready", "/metrics", "/version"]) {
      expect((await fetch(`${server.url}${path}`)).status).toBe(200)
    }
    const stranger = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "wrong", maxRetries: 0 })
    await expect(stranger.models.list()).rejects.toThrow(OpenAI.AuthenticationError)
  })
})

describe("404, 405", () => {
  it("a model that is not here, naming those that are", async () => {
    await start()
    const error = await errorOf(await server.post("/v1/completions", { model: "gpt-9", prompt: "x" }))
    expect(error).toMatchObject({
      status: 404,
      type: "NotFoundError",
      param: "model",
      message: 'the model "gpt-9" does not exist; this server has "needle", "needle-alias"',
    })
    await expect(server.client.completions.create({ model: "gpt-9", prompt: "x" })).rejects.toThrow(
      OpenAI.NotFoundError,
    )
  })

  it("a path that is not here, and one for another method", async () => {
    await start()
    expect((await errorOf(await fetch(`${server.url}/v2/models`))).status).toBe(404)
    expect((await errorOf(await fetch(`${server.url}/%zz`))).status).toBe(404)
    const response = await fetch(`${server.url}/v1/completions`)
    expect(response.headers.get("allow")).toBe("POST, OPTIONS")
    expect(await errorOf(response)).toMatchObject({ status: 405, type: "MethodNotAllowedError" })
    expect((await server.post("/health", {})).status).toBe(405)
  })
})

describe("413, 415, 431, 408 and garbage", () => {
  it("a body that says it is too large", async () => {
    await start({ limits: { bodyBytes: 1000 } })
    const error = await errorOf(await server.post("/v1/completions", { prompt: "x".repeat(2000) }))
    expect(error).toMatchObject({ status: 413, type: "PayloadTooLargeError" })
    expect(error.message).toMatch(/limit of 1000 bytes, got 20\d\d bytes/)
  })

  it("a client that sends all of a large body first can read why it was refused, and keeps its connection", async () => {
    await start({ limits: { bodyBytes: 4_000_000, discardMs: 60_000 } })
    const body = new Uint8Array(15_000_000).fill(0x20)
    const chunked = () => new Blob([body]).stream()
    for (const [content, got] of [
      [body, "15000000 bytes"],
      [chunked(), "more"],
    ] as const) {
      const response = await fetch(`${server.url}/v1/completions`, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: content,
        duplex: "half",
      })
      expect(response.headers.get("connection")).toBe("keep-alive")
      expect((await errorOf(response)).message).toBe(`request body exceeds the limit of 4000000 bytes, got ${got}`)
    }
  })

  it("the rest of a body that is too large is waited for, but not for long, and not if it is much too large", async () => {
    const refused = async (discardMs: number, rest: string) => {
      await start({ limits: { bodyBytes: 1_000_000, discardMs } })
      const head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
      const answer = await rawExchange(server.port, `${head}${rest}`)
      expect(answer).toMatch(/^HTTP\/1.1 413 /)
      expect(answer).toContain("limit of 1000000 bytes")
      expect(answer.toLowerCase()).toContain("connection: close")
    }
    const began = performance.now()
    await refused(300, "content-length: 3900000\r\n\r\n{")
    expect(performance.now() - began).toBeGreaterThan(290)
    await server.close()
    // Whoever waited for the rest of these would wait longer than a test may take.
    await refused(3_600_000, "content-length: 4100000\r\n\r\n{")
    await server.close()
    await refused(3_600_000, "content-length: 3900000\r\nexpect: 100-continue\r\n\r\n")
  })

  it("a body that turns out too large while it comes, without waiting for ever for the rest", async () => {
    await start({ limits: { bodyBytes: 1000, discardMs: 100 } })
    const chunk = `400\r\n${"x".repeat(1024)}\r\n`
    const head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    const answer = await rawExchange(
      server.port,
      `${head}transfer-encoding: chunked\r\nconnection: close\r\n\r\n${chunk}`,
    )
    expect(answer).toMatch(/^HTTP\/1.1 413 /)
    expect(answer).toContain("limit of 1000 bytes, got more")
  })

  it("another content type", async () => {
    await start()
    const error = await errorOf(await server.post("/v1/completions", "{}", { "content-type": "text/plain" }))
    expect(error).toMatchObject({ status: 415, message: "content-type must be application/json, got text/plain" })
  })

  it("headers beyond the limit", async () => {
    await start({ limits: { headerBytes: 2048 } })
    const answer = await rawExchange(
      server.port,
      `GET /health HTTP/1.1\r\nhost: x\r\nx-long: ${"y".repeat(4000)}\r\n\r\n`,
    )
    expect(answer).toMatch(/^HTTP\/1.1 431 /)
    expect(answer).toContain("RequestHeaderFieldsTooLargeError")
  })

  it("bytes that are not HTTP", async () => {
    await start()
    const answer = await rawExchange(server.port, "\x16\x03\x01\x02\x00\x01\x00 what\r\n\r\n")
    expect(answer).toMatch(/^HTTP\/1.1 400 /)
    expect(answer).toContain('"type":"BadRequestError"')
  })

  it("a request that never ends is closed in time, and others are served meanwhile", async () => {
    // Long enough for whoever sends all at once, whatever else this process does between accepting it and reading.
    await start({ limits: { headersTimeoutMs: 2000, requestTimeoutMs: 3000 } })
    const slowHead = rawExchange(server.port, "POST /v1/completions HTTP/1.1\r\nhost: x\r\n")
    const head =
      "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n"
    const slowBody = rawExchange(server.port, `${head}{"prompt":`)
    expect((await server.post("/v1/completions", { prompt: "x", max_tokens: 1 })).status).toBe(200)
    expect(await slowHead).toMatch(/^HTTP\/1.1 408 /)
    expect(await slowBody).toMatch(/^HTTP\/1.1 408 /)
  })
})

describe("429, 503, 500", () => {
  it("a full queue, with when to come again", async () => {
    await start()
    server.engine.refuse = engineError("QueueFull", "256 requests wait, the limit is 256")
    const response = await server.post("/v1/completions", { prompt: "x", stream: true })
    expect(response.headers.get("retry-after")).toBe("1")
    expect(await errorOf(response)).toMatchObject({ status: 429, type: "RateLimitError" })
    await expect(server.client.completions.create({ model: "needle", prompt: "x" })).rejects.toThrow(
      OpenAI.RateLimitError,
    )
  })

  it("a queue without room for all prompts of a request takes none of them", async () => {
    await start()
    server.engine.noRoom = engineError("QueueFull", "1023 requests are waiting and 2 more come, at most 1024 may")
    const response = await server.post("/v1/completions", { prompt: [[5, 6], [7]], n: 3 })
    expect(response.headers.get("retry-after")).toBe("1")
    expect(await errorOf(response)).toMatchObject({ status: 429, message: server.engine.noRoom.detail })
    expect(server.engine.asked).toEqual([[2, 3]])
    expect(server.engine.requests).toEqual([])
  })

  it("a queue that fills up half way through several prompts: those that were in are given up", async () => {
    await start()
    server.engine.capacity = 2
    server.engine.refuse = engineError("QueueFull", "256 requests wait, the limit is 256")
    const response = await server.post("/v1/completions", { prompt: ["x", "y", "z", "x"], n: 2, stream: true })
    expect(response.status).toBe(429)
    await eventually(() => server.engine.running.size === 0)
    expect(server.engine.requests).toHaveLength(2)
    expect(new Set(server.engine.aborted)).toEqual(new Set(server.engine.requests.map((request) => request.requestId)))
  })

  it("an executor that fails", async () => {
    await start()
    server.engine.failAfter = 2
    const error = await errorOf(await server.post("/v1/completions", { prompt: "x", max_tokens: 4 }))
    expect(error).toMatchObject({ status: 500, type: "InternalServerError", message: "step 12: device lost" })
  })

  it("an executor that fails mid-stream: an event with the error, then [DONE]", async () => {
    await start()
    server.engine.failAfter = 2
    const response = await server.post("/v1/completions", { prompt: "x", max_tokens: 4, stream: true })
    expect(response.status).toBe(200)
    const events = (await response.text())
      .trim()
      .split("\n\n")
      .filter((event) => !event.startsWith(":"))
    expect(events).toHaveLength(4)
    expect(events[3]).toBe("data: [DONE]")
    expect(JSON.parse(events[2]!.slice("data: ".length)).error).toMatchObject({
      code: 500,
      message: "step 12: device lost",
    })
    await eventually(() => server.logs.some((line) => line.fields.error === "step 12: device lost"))
    const stream = await server.client.completions.create({ model: "needle", prompt: "x", stream: true })
    await expect(collect(stream)).rejects.toThrow("step 12: device lost")
  })

  it("an answer that ends without saying how is an error, whole and streamed", async () => {
    await start()
    server.engine.vanishAfter = 1
    const whole = await errorOf(await server.post("/v1/completions", { prompt: "x", max_tokens: 4 }))
    expect(whole).toMatchObject({ status: 500, message: "the answer ended early" })
    const streamed = await server.post("/v1/completions", { prompt: "x", max_tokens: 4, stream: true })
    expect(await streamed.text()).toContain("the answer ended early")
  })
})

describe("status paths", () => {
  it("health, ready, version, metrics", async () => {
    await start()
    expect((await fetch(`${server.url}/health`)).status).toBe(200)
    expect(await (await fetch(`${server.url}/ready`)).json()).toMatchObject({ status: "ready" })
    expect(await (await fetch(`${server.url}/version`)).json()).toEqual({
      version: expect.stringMatching(/^\d+\.\d+\.\d+/),
    })
    const metrics = await fetch(`${server.url}/metrics`)
    expect(metrics.headers.get("content-type")).toBe("text/plain; version=0.0.4; charset=utf-8")
  })

  it("ready names the stuck step when work waits and nothing commits", async () => {
    await start()
    server.engine.stalledMicros = 90_000_000
    const error = await errorOf(await fetch(`${server.url}/ready`))
    expect(error).toMatchObject({
      status: 503,
      message: "stalled: no step has finished for 90 s, step 17 is running, 3 requests wait",
    })
    expect((await fetch(`${server.url}/health`)).status).toBe(200)
  })

  it("ready is 503 after repeated failures, with the last one", async () => {
    await start()
    server.engine.lastFailure = "step 12: device lost"
    const error = await errorOf(await fetch(`${server.url}/ready`))
    expect(error).toMatchObject({ status: 503, message: "unhealthy: 3 steps failed, step 12: device lost" })
  })

  it("while draining: ready is 503, new work is 503, running work finishes", async () => {
    await start()
    server.engine.delayMs = 3_600_000
    const running = server.post("/v1/completions", { prompt: "x", max_tokens: 20 })
    await eventually(() => server.engine.running.size === 1)
    server.engine.draining = true
    expect((await fetch(`${server.url}/ready`)).status).toBe(503)
    const refused = await server.post("/v1/completions", { prompt: "x" })
    expect(refused.headers.get("retry-after")).toBe("5")
    expect((await errorOf(refused)).type).toBe("ServiceUnavailableError")
    server.engine.release()
    expect((await running).status).toBe(200)
  })
})

describe("tokenization", () => {
  it("there and back", async () => {
    await start()
    const text = "The special magic number — 7654321."
    const there: any = await (await server.post("/tokenize", { prompt: text, return_token_strs: true })).json()
    expect(there.count).toBe(there.tokens.length)
    expect(there.token_strs).toHaveLength(there.count)
    expect(there.max_model_len).toBe(512)
    const back = await server.post("/detokenize", { tokens: there.tokens })
    expect(await back.json()).toEqual({ prompt: text })
  })

  it("refuses a token that is none", async () => {
    await start()
    expect(await errorOf(await server.post("/detokenize", { tokens: [1, 4096] }))).toMatchObject({
      status: 400,
      param: "tokens[1]",
      message: "tokens[1]: token id 4096 is outside the vocabulary of 4096 tokens",
    })
  })
})

test("closing the server closes connections that never sent a whole request", async () => {
  // Neither time limit would do it while a test may take.
  await start({ limits: { headersTimeoutMs: 3_600_000, requestTimeoutMs: 3_600_000 } })
  const half = rawExchange(server.port, "POST /v1/completions HTTP/1.1\r\nhost: x\r\n")
  await fetch(`${server.url}/health`)
  await server.close()
  expect(await half).toBe("")
})
