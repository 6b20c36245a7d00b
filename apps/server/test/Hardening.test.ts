import { once } from "node:events"
import { connect } from "node:net"
import { gzipSync } from "node:zlib"
import { requestLimits } from "@uniprefill/openai/Limits"
import { afterEach, describe, expect, it, test, vi } from "vitest"
import { eventually, startServer, type TestServer, type TestServerOptions } from "./TestServer.ts"

let server: TestServer
const start = async (options?: TestServerOptions) => (server = await startServer(options))
afterEach(() => server.close())

const ask = async (body: unknown) => {
  const response = await server.post("/v1/completions", body)
  return { status: response.status, json: (await response.json()) as any }
}

describe("values that whoever computes with them could not take", () => {
  const floats = ["temperature", "top_p", "min_p", "frequency_penalty", "presence_penalty", "repetition_penalty"]
  const values = [
    "1e-46",
    "1e-40",
    "1.4e-45",
    "-1e-46",
    "0",
    "-0",
    "1e39",
    "1e300",
    "1e400",
    "-1e400",
    "2",
    "0.99999999999",
  ]
  const integers = ["top_k", "min_tokens", "max_tokens", "n", "logprobs", "priority", "seed"]
  const whole = [
    "-1",
    "0",
    "2147483647",
    "2147483648",
    "-2147483649",
    "9007199254740993",
    "18446744073709551616",
    "1e19",
    "0.5",
  ]

  it("are refused by name, or reach the engine in range as 32-bit floats and integers", async () => {
    await start()
    const bodies = [
      ...floats.flatMap((field) => values.map((value) => [field, value] as const)),
      ...integers.flatMap((field) => whole.map((value) => [field, value] as const)),
      ...values.map((value) => ["logit_bias", `{"5":${value}}`] as const),
    ]
    for (const [field, value] of bodies) {
      const before = server.engine.requests.length
      const { status, json } = await ask(`{"prompt":"x","${field}":${value}}`)
      const param = json.error?.param.split(".")[0] ?? "none"
      expect([status, param], `${field} ${value}`).toEqual(status === 400 ? [400, field] : [200, "none"])
      if (server.engine.requests.length === before) continue
      const { sampling } = server.engine.requests.at(-1)!
      const topP = Math.fround(sampling.topP)
      expect(topP > 0 && topP <= 1).toBe(true)
      expect(Math.fround(sampling.minP)).toBeLessThanOrEqual(1)
      const numbers = [
        sampling.temperature,
        sampling.frequencyPenalty,
        sampling.presencePenalty,
        sampling.repetitionPenalty,
      ]
      for (const number of numbers) expect(Number.isFinite(Math.fround(number))).toBe(true)
      expect(sampling.temperature === 0 || Number.isFinite(Math.fround(1 / sampling.temperature))).toBe(true)
      expect(Math.fround(sampling.repetitionPenalty)).toBeGreaterThan(0)
      for (const integer of [sampling.topK, sampling.minTokens, sampling.logprobs]) expect(integer | 0).toBe(integer)
      expect(BigInt.asUintN(64, sampling.seed)).toBe(sampling.seed)
    }
  })

  it("lists with duplicates name each token once", async () => {
    await start()
    const { status } = await ask({
      prompt: "x",
      allowed_token_ids: Array.from({ length: 4097 }, (_, i) => i % 7),
      stop_token_ids: Array.from({ length: 256 }, (_, i) => i % 3),
    })
    expect(status).toBe(200)
    const { sampling } = server.engine.requests[0]!
    expect(sampling.allowedTokenIds).toEqual([0, 1, 2, 3, 4, 5, 6])
    expect(sampling.stopTokenIds).toEqual([1, 201, 0, 2])
  })

  test.each([
    ["seed", "9007199254740993", 9007199254740993n],
    ["seed", "-9223372036854775808", 2n ** 63n],
    ["seed", "18446744073709551615", 2n ** 64n - 1n],
  ])("%s %s arrives to the last bit", async (_, seed, expected) => {
    await start()
    expect((await ask(`{"prompt":"x","seed":${seed}}`)).status).toBe(200)
    expect(server.engine.requests[0]!.sampling.seed).toBe(expected)
  })
})

describe("bodies", () => {
  it("that are deep, wide or bombs are refused while others are served", async () => {
    await start()
    let answered = 0
    const witnessed = { running: true }
    const witness = (async () => {
      while (witnessed.running) {
        expect((await ask({ prompt: "x", max_tokens: 1 })).status).toBe(200)
        answered++
      }
    })()
    const wide = `{${Array.from({ length: 900_000 }, (_, i) => `"k${i}":1`).join(",")}}`
    expect(await ask(wide)).toMatchObject({
      status: 400,
      json: { error: { message: expect.stringContaining("32768") } },
    })
    expect(await ask("[".repeat(14_000_000))).toMatchObject({ status: 400 })
    expect(await ask(`{"prompt":"x","a":${"[".repeat(5000)}`)).toMatchObject({ status: 400 })
    expect(await ask({ prompt: "word ".repeat(3_000_000) })).toMatchObject({
      status: 400,
      json: {
        error: {
          param: "prompt",
          message: expect.stringMatching(/^this model takes at most 512 tokens, but prompt has 15000000 characters/),
        },
      },
    })
    expect(await ask({ prompt: Array(2_000_000).fill(5) })).toMatchObject({
      status: 400,
      json: { error: { message: expect.stringContaining("prompt has 2000000") } },
    })
    witnessed.running = false
    await witness
    expect(answered).toBeGreaterThan(5)
  })

  it("that are large are parsed by another thread, and no more of a text comes from there than could be a prompt", async () => {
    await start()
    const here = vi.spyOn(JSON, "parse")
    const asked = `{"prompt":"x","max_tokens":1,"user":"${"u".repeat(100)}","x":${JSON.stringify(Array(400_000).fill(7))}}`
    expect((await ask(asked)).status).toBe(200)
    const { json } = await ask(`{"prompt":"x","stop":"${"y".repeat(2_000_000)}"}`)
    expect(json.error).toMatchObject({ param: "stop", message: expect.stringContaining("stop has 2000000 characters") })
    expect(Math.max(...here.mock.calls.map(([text]) => text.length))).toBeLessThan(10_000)
    here.mockRestore()
  })

  it("may be compressed", async () => {
    await start()
    const response = await fetch(`${server.url}/v1/completions`, {
      method: "POST",
      headers: { "content-type": "application/json", "content-encoding": "gzip" },
      body: gzipSync(JSON.stringify({ prompt: "x", max_tokens: 2 })),
    })
    expect(await response.json()).toMatchObject({ choices: [{ text: " 0 1" }] })
    const other = await server.post("/v1/completions", "{}", { "content-encoding": "compress" })
    expect(other.status).toBe(415)
    expect(other.headers.get("accept-encoding")).toBe("gzip, deflate, br, zstd")
  })

  it("are read no more than fit in memory at a time, and the rest is told to come again", async () => {
    await start({ limits: { bodyBytesInFlight: 1000 } })
    const head = "POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 900\r\n"
    const slow = connect(server.port, "127.0.0.1", () => slow.write(`${head}expect: 100-continue\r\n\r\n`))
    // It is told to go on as its body begins to be read.
    const [told] = (await once(slow, "data")) as [Buffer]
    expect(told.toString()).toContain("100 Continue")
    const refused = await server.post("/v1/completions", { prompt: "x".repeat(200) })
    expect([refused.status, refused.headers.get("retry-after")]).toEqual([503, "1"])
    slow.destroy()
    await eventually(() => server.logs.length >= 2)
    expect((await ask({ prompt: "x".repeat(200) })).status).toBe(200)
  })
})

describe("text is well-formed", () => {
  it("on every way out, whatever came in", async () => {
    await start()
    const half = '{"prompt":"x\\ud800y","echo":true,"max_tokens":1}'
    const bytes = await (await server.post("/v1/completions", half)).text()
    expect(bytes).not.toMatch(/\\ud[89a-f]/i)
    expect(JSON.parse(bytes).choices[0].text).toBe("x\ufffdy 0")
    const streamed = await (await server.post("/v1/completions", half.replace("{", '{"stream":true,'))).text()
    expect(streamed).not.toMatch(/\\ud[89a-f]/i)
    for (const body of [
      '{"prompt":"x","model":"\\udc00"}',
      '{"prompt":"x","stop":5,"\\ud800":1}',
      `{"prompt":"x","stop":["${"🦔".repeat(200)}"]}`,
    ]) {
      const text = await (await server.post("/v1/completions", body)).text()
      expect(text).not.toMatch(/\\ud[89a-f]/i)
    }
    expect(JSON.stringify(server.logs)).not.toMatch(/\\ud[89a-f]/i)
  })
})

describe("max_tokens 0 and log-probabilities of the prompt", () => {
  it("asks the engine for nothing, and gives the prompt back where it is echoed", async () => {
    await start()
    const { json } = await ask({ prompt: "Once upon", max_tokens: 0, echo: true })
    expect(json.choices[0]).toMatchObject({ text: "Once upon", finish_reason: "length" })
    expect(json.usage).toMatchObject({ completion_tokens: 0, total_tokens: json.usage.prompt_tokens })
    expect(server.engine.requests).toEqual([])
    const stream = await server.post("/v1/completions", { prompt: "Once", max_tokens: 0, stream: true })
    expect(await stream.text()).toContain('"finish_reason":"length"')
  })

  it("echo with logprobs has both, of a request that drops nothing, whole and streamed", async () => {
    await start()
    const body = { prompt: "Once upon a time", echo: true, logprobs: 1, max_tokens: 2 }
    const { json } = await ask(body)
    const { text, logprobs } = json.choices[0]
    const [request] = server.engine.requests
    expect(request).toMatchObject({ promptLogprobs: 1, drop: false })
    const prompt = request!.prompt.length
    expect(text).toBe("Once upon a time 0 1")
    expect(logprobs.tokens.slice(0, prompt).join("")).toBe("Once upon a time")
    expect(logprobs.token_logprobs).toEqual([null, ...Array(prompt - 1).fill(-0.25), -0.5, -0.5])
    expect(logprobs.top_logprobs[0]).toBeNull()
    expect(
      logprobs.text_offset.slice(0, prompt).map((at: number, i: number) => text.startsWith(logprobs.tokens[i], at)),
    ).toEqual(Array(prompt).fill(true))
    const alone = await ask({ ...body, max_tokens: 0 })
    expect(alone.json.choices[0]).toMatchObject({ text: "Once upon a time", finish_reason: "length" })
    expect(alone.json.choices[0].logprobs.tokens).toHaveLength(prompt)
    expect(alone.json.usage.completion_tokens).toBe(0)
    const events = (await (await server.post("/v1/completions", { ...body, stream: true })).text()).split("\n\n")
    const chunks = events.filter((event) => event.startsWith("data: {")).map((event) => JSON.parse(event.slice(6)))
    expect(chunks.map((chunk) => chunk.choices[0].text).join("")).toBe(text)
    expect(chunks.flatMap((chunk) => chunk.choices[0].logprobs?.tokens ?? [])).toEqual(logprobs.tokens)
    expect(await ask({ ...body, uniprefill: { enabled: true } })).toMatchObject({ status: 400 })
  })
})

describe("a stream", () => {
  it("begins at once, and is kept alive by comments until its first token", async () => {
    await start({ limits: { commentMs: 30 } })
    server.engine.delayMs = 3_600_000
    const response = await server.post("/v1/completions", { prompt: "x", max_tokens: 1, stream: true })
    // Its only token does not come before it is asked to.
    expect(server.engine.running.size).toBe(1)
    let text = ""
    for await (const part of response.body!.pipeThrough(new TextDecoderStream())) {
      text += part
      if ((text.match(/^: waiting$/gm)?.length ?? 0) >= 2) server.engine.release()
    }
    expect(text.startsWith(": admitted\n\n")).toBe(true)
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true)
  })

  it("has the usage so far in every event where it is asked for", async () => {
    await start()
    const stream_options = { include_usage: true, continuous_usage_stats: true }
    const response = await server.post("/v1/completions", { prompt: "x", max_tokens: 3, stream: true, stream_options })
    const chunks = (await response.text()).split("\n\n").filter((event) => event.startsWith("data: {"))
    const usages = chunks.map((chunk) => JSON.parse(chunk.slice(6)).usage.completion_tokens)
    expect(usages).toEqual([1, 2, 3, 3, 3])
  })
})

describe("the end of the server", () => {
  it("is told: a stream ends with abort, a client that waits gets a 503 that says when to come again", async () => {
    await start()
    server.engine.delayMs = 100_000
    const streamed = server.post("/v1/completions", { prompt: "x", stream: true }).then((response) => response.text())
    const whole = server.post("/v1/completions", { prompt: "x" })
    await eventually(() => server.engine.running.size === 2)
    server.engine.abortAll()
    expect(await streamed).toMatch(/"finish_reason":"abort".*\n\ndata: \[DONE\]\n\n$/)
    const response = await whole
    expect([response.status, response.headers.get("retry-after")]).toEqual([503, "5"])
    expect(((await response.json()) as any).error.message).toContain("shutting down")
  })
})

describe("browsers and other clients", () => {
  it("may ask what they may do, without a key", async () => {
    await start({ apiKeys: ["sesame"] })
    const preflight = await fetch(`${server.url}/v1/completions`, {
      method: "OPTIONS",
      headers: {
        origin: "https://page.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization, content-type",
      },
    })
    expect(preflight.status).toBe(200)
    expect(Object.fromEntries(preflight.headers)).toMatchObject({
      "access-control-allow-origin": "*",
      "access-control-allow-headers": "authorization, content-type",
      "access-control-allow-methods": "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT",
    })
    const options = await fetch(`${server.url}/v1/models`, { method: "OPTIONS" })
    expect([options.status, options.headers.get("allow")]).toEqual([204, "GET, OPTIONS"])
    expect((await fetch(`${server.url}/nothing`, { method: "OPTIONS" })).status).toBe(401)
  })

  it("read answers from other origins, errors too, unless the operator names origins", async () => {
    await start()
    const asked = await server.post("/v1/completions", {}, { origin: "https://page.example" })
    expect([asked.status, asked.headers.get("access-control-allow-origin")]).toEqual([400, "*"])
    expect((await server.post("/v1/completions", {})).headers.get("access-control-allow-origin")).toBeNull()
    await server.close()
    const cors = {
      allowedOrigins: ["https://mine.example"],
      allowedMethods: ["GET"],
      allowedHeaders: ["x-mine"],
      allowCredentials: true,
    }
    await start({ cors })
    const allow = async (origin: string) => {
      const response = await fetch(`${server.url}/health`, { headers: { origin } })
      return [response.headers.get("access-control-allow-origin"), response.headers.get("vary")]
    }
    expect(await allow("https://mine.example")).toEqual(["https://mine.example", "origin"])
    expect(await allow("https://page.example")).toEqual([null, null])
    const refused = await fetch(`${server.url}/v1/models`, {
      method: "OPTIONS",
      headers: { origin: "https://mine.example", "access-control-request-method": "POST" },
    })
    expect([refused.status, await refused.text()]).toEqual([400, "Disallowed CORS method"])
  })

  it("find a model by its name, slashes and all", async () => {
    await start()
    for (const path of ["needle", "needle-alias", "%6eeedle"]) {
      expect((await fetch(`${server.url}/v1/models/${path}`)).status).toBe(200)
    }
    const none = await fetch(`${server.url}/v1/models/org/other?x=1`)
    expect(none.status).toBe(404)
    expect(((await none.json()) as any).error.message).toContain('"org/other"')
    expect((await fetch(`${server.url}/v1/models/%zz`)).status).toBe(400)
    expect((await server.post("/v1/models/needle", {})).status).toBe(405)
  })

  it("keep their connections longer than proxies do", async () => {
    await start()
    expect((await fetch(`${server.url}/health`)).headers.get("keep-alive")).toBe("timeout=75")
  })

  it("give requests an id, which the answer has in its name and its headers", async () => {
    await start()
    const response = await server.post("/v1/completions", { prompt: "x", max_tokens: 1 }, { "x-request-id": "trace-7" })
    expect(response.headers.get("x-request-id")).toBe("trace-7")
    expect(((await response.json()) as any).id).toBe("cmpl-trace-7")
    const bad = await server.post("/v1/completions", {}, { "x-request-id": "a b" })
    expect(bad.headers.get("x-request-id")).toBeNull()
  })

  it("speak for others only where a gateway is trusted", async () => {
    const headers = {
      "x-gateway-inference-fairness-id": "team",
      "x-gateway-inference-objective": "-4",
      "x-slo-ttft-ms": "250",
    }
    await start()
    await server.post("/v1/completions", { prompt: "x" }, headers)
    expect(server.engine.requests[0]).toMatchObject({ tenant: "", priority: 0, firstTokenWithinMicros: undefined })
    await server.close()
    await start({ trustGateway: true })
    await server.post("/v1/completions", { prompt: "x" }, headers)
    expect(server.engine.requests[0]).toMatchObject({ tenant: "/team", priority: -4, firstTokenWithinMicros: 250_000 })
    await server.post("/v1/completions", { prompt: "x", priority: 2, ttft_slo_ms: 9 }, headers)
    expect(server.engine.requests[1]).toMatchObject({ priority: 2, firstTokenWithinMicros: 9000 })
  })
})

describe("tokens and text of any length", () => {
  it("are turned into each other without a word too many", async () => {
    await start()
    const prompt = "a needle in a haystack ".repeat(20_000)
    const tokenized: any = await (await server.post("/tokenize", { prompt, return_token_strs: true })).json()
    expect(tokenized.count).toBe(tokenized.tokens.length)
    expect(tokenized.token_strs.join("")).toBe(prompt)
    const back: any = await (await server.post("/detokenize", { tokens: tokenized.tokens })).json()
    expect(back.prompt).toBe(prompt)
    const tokens = Array(requestLimits.detokenizedTokens + 1).fill(5)
    expect((await server.post("/detokenize", { tokens })).status).toBe(400)
  })
})
