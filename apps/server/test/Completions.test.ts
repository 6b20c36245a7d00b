import { Completion, CompletionChunk } from "@uniprefill/openai/Completion"
import { ModelList } from "@uniprefill/openai/Model"
import { Schema } from "effect"
import { afterEach, beforeEach, describe, expect, it } from "vitest"
import { collect, eventually, startServer, type TestServer } from "./TestServer.ts"

let server: TestServer
beforeEach(async () => {
  server = await startServer()
})
afterEach(() => server.close())

describe("with the openai client", () => {
  it("lists models under every served name", async () => {
    const page = await server.client.models.list()
    expect(page.data.map((model) => model.id)).toEqual(["needle", "needle-alias"])
    const list = await (await fetch(`${server.url}/v1/models`)).json()
    expect(Schema.decodeUnknownSync(ModelList)(list).data[0]).toMatchObject({
      root: "models/needle",
      max_model_len: 512,
    })
  })

  it("answers a completion", async () => {
    const completion = await server.client.completions.create({ model: "needle", prompt: "Once upon", max_tokens: 3 })
    const checked = Schema.decodeUnknownSync(Completion)(completion)
    expect(checked.choices).toEqual([
      { index: 0, text: " 0 1 2", logprobs: null, finish_reason: "length", stop_reason: null },
    ])
    const prompt = server.engine.requests[0]!.prompt.length
    expect(checked.usage).toEqual({
      prompt_tokens: prompt,
      completion_tokens: 3,
      total_tokens: prompt + 3,
      prompt_tokens_details: { cached_tokens: 0 },
    })
    expect(checked.id).toMatch(/^cmpl-[0-9a-f]{32}$/)
  })

  it("streams a completion with usage", async () => {
    const stream = await server.client.completions.create({
      model: "needle-alias",
      prompt: "Once upon",
      max_tokens: 3,
      stream: true,
      stream_options: { include_usage: true },
    })
    const chunks = (await collect(stream)).map((chunk) => Schema.decodeUnknownSync(CompletionChunk)(chunk))
    expect(chunks.map((chunk) => chunk.choices[0]?.text ?? null).join("")).toBe(" 0 1 2")
    expect(chunks.filter((chunk) => chunk.choices[0]?.finish_reason === "length")).toHaveLength(1)
    const last = chunks.at(-1)!
    expect(last.choices).toEqual([])
    expect(last.usage?.completion_tokens).toBe(3)
    expect(chunks.slice(0, -1).every((chunk) => chunk.usage === null)).toBe(true)
    expect(new Set(chunks.map((chunk) => chunk.id)).size).toBe(1)
    expect(last.model).toBe("needle-alias")
  })

  it("ends a raw stream with [DONE], and leaves usage out unless asked", async () => {
    const response = await server.post("/v1/completions", { prompt: "x", max_tokens: 2, stream: true })
    expect(response.headers.get("content-type")).toBe("text/event-stream; charset=utf-8")
    const text = await response.text()
    expect(text.endsWith("data: [DONE]\n\n")).toBe(true)
    expect(text).not.toContain("usage")
  })

  it("aborts the engine's request when a streaming client goes away", async () => {
    server.engine.delayMs = 5
    const stream = await server.client.completions.create({
      model: "needle",
      prompt: "x",
      max_tokens: 400,
      stream: true,
    })
    for await (const _ of stream) break
    await eventually(() => server.engine.aborted.length === 1)
    expect(server.engine.running.size).toBe(0)
    await eventually(() => server.logs.some((line) => line.fields.status === 499))
    expect(server.logs.find((line) => line.fields.status === 499)!.fields.completion_tokens).toBeLessThan(400)
  })

  it("aborts every answer of a request whose waiting client goes away", async () => {
    server.engine.delayMs = 50
    const controller = new AbortController()
    const request = server.client.completions.create(
      { model: "needle", prompt: "x", max_tokens: 400, n: 3 },
      { signal: controller.signal },
    )
    await eventually(() => [...server.engine.running.values()].includes(3))
    controller.abort()
    await expect(request).rejects.toThrow("aborted")
    await eventually(() => server.engine.aborted.length === 3)
  })

  it("serves requests side by side", async () => {
    server.engine.delayMs = 2
    const answers = await Promise.all(
      Array.from({ length: 40 }, (_, i) =>
        server.client.completions.create({ model: "needle", prompt: `request ${i}`, max_tokens: 1 + (i % 7) }),
      ),
    )
    expect(answers.map((answer) => answer.usage!.completion_tokens)).toEqual(answers.map((_, i) => 1 + (i % 7)))
    expect(new Set(server.engine.requests.map((request) => request.requestId)).size).toBe(40)
  })
})

describe("requests to the engine", () => {
  const ask = async (body: object) => {
    const response = await server.post("/v1/completions", { max_tokens: 2, ...body })
    const json: any = await response.json()
    expect(json.error).toBeUndefined()
    return json
  }

  it("n answers are one request, whose prompt and cached tokens count once", async () => {
    server.engine.cachedTokens = 1
    const { choices, usage } = await ask({ prompt: [7, 8], n: 3, seed: 5 })
    expect(choices.map((choice: { index: number }) => choice.index)).toEqual([0, 1, 2])
    expect(server.engine.requests).toMatchObject([{ answers: 3, sampling: { seed: 5n } }])
    expect(usage).toMatchObject({ prompt_tokens: 2, completion_tokens: 6, prompt_tokens_details: { cached_tokens: 1 } })
    await eventually(() => server.logs.length > 0)
    expect(server.logs[0]!.fields).toMatchObject({ prompts: 1, choices: 3, cached_tokens: 1 })
  })

  it("a seed of −1 is one of 64 bits, and no seed is a fresh one", async () => {
    await ask({ prompt: "x", seed: -1 })
    await ask({ prompt: "x" })
    await ask({ prompt: "x" })
    const [first, second, third] = server.engine.requests.map((request) => request.sampling.seed)
    expect(first).toBe(0xffff_ffff_ffff_ffffn)
    expect(second).not.toBe(third)
  })

  it("a list of prompts is answered in order, prompt by prompt", async () => {
    const { choices, usage } = await ask({ prompt: [[5, 6], [7]], n: 2, echo: true })
    expect(server.engine.requests.map((request) => [...request.prompt])).toEqual([[5, 6], [7]])
    expect(choices).toHaveLength(4)
    expect(usage).toMatchObject({ prompt_tokens: 3, completion_tokens: 8, total_tokens: 11 })
  })

  it("echo puts the prompt before the answer, also in a stream", async () => {
    expect((await ask({ prompt: "Once upon", echo: true })).choices[0].text).toBe("Once upon 0 1")
    const response = await server.post("/v1/completions", { prompt: "Once", max_tokens: 1, echo: true, stream: true })
    expect(await response.text()).toMatch(/^: admitted\n\ndata: .*"text":"Once"/)
  })

  it("logprobs come as lists of equal length, with offsets into the text", async () => {
    const { logprobs } = (await ask({ prompt: "x", logprobs: 2, max_tokens: 3 })).choices[0]
    expect(logprobs.tokens).toHaveLength(3)
    expect(logprobs.token_logprobs).toEqual([-0.5, -0.5, -0.5])
    expect(logprobs.top_logprobs.map((top: object) => Object.keys(top).length)).toEqual([2, 2, 2])
    expect(logprobs.text_offset[0]).toBe(0)
  })

  it("stop, sampling and dropping fields arrive", async () => {
    await ask({
      prompt: "x",
      stop: "END",
      stop_token_ids: [9],
      include_stop_str_in_output: true,
      temperature: 0.5,
      top_k: -1,
      top_p: 0.25,
      min_p: 0.125,
      min_tokens: 1,
      logit_bias: { "17": -5 },
      allowed_token_ids: [1, 2],
      skip_special_tokens: false,
      priority: -3,
      uniprefill: { p: 0.95 },
    })
    expect(server.engine.requests[0]).toMatchObject({
      stop: ["END"],
      includeStop: true,
      skipSpecialTokens: false,
      drop: true,
      minP: 0.95,
      priority: -3,
      sampling: {
        temperature: 0.5,
        topK: 0,
        topP: 0.25,
        minP: 0.125,
        minTokens: 1,
        logitBias: [[17, -5]],
        allowedTokenIds: [1, 2],
        stopTokenIds: [1, 201, 9],
        logprobs: -1,
      },
    })
  })

  it("what is not given comes from the model's generation defaults; ignore_eos takes the end tokens out", async () => {
    await ask({ prompt: "x", ignore_eos: true })
    expect(server.engine.requests[0]!.sampling).toMatchObject({ temperature: 0, topP: 1, stopTokenIds: [] })
  })

  it("report gives the kept ratios, dense requests keep everything", async () => {
    expect((await ask({ prompt: "x", uniprefill: { report: true } })).uniprefill).toEqual({ kept: [1, 0.5, 0.25] })
    expect((await ask({ prompt: "x", uniprefill: { report: true, enabled: false } })).uniprefill).toEqual({ kept: [1] })
    expect((await ask({ prompt: "x" })).uniprefill).toBeUndefined()
    const body = { prompt: "x", max_tokens: 1, stream: true, uniprefill: { report: true } }
    const text = await (await server.post("/v1/completions", body)).text()
    expect(text.match(/"uniprefill":\{"kept":\[1,0.5,0.25\]\}/g)).toHaveLength(1)
  })

  it("the same request_id may come twice at the same time", async () => {
    server.engine.delayMs = 5
    const answers = await Promise.all([
      ask({ prompt: "x", request_id: "mine" }),
      ask({ prompt: "x", request_id: "mine" }),
    ])
    expect(answers.map((answer) => answer.id)).toEqual(["cmpl-mine", "cmpl-mine"])
    const [first, second] = server.engine.requests
    expect(first!.requestId).not.toBe(second!.requestId)
  })
})

describe("the access log", () => {
  it("has one line a request, with counts and times and never the prompt", async () => {
    await server.post("/v1/completions", { prompt: "the secret number", max_tokens: 2, stop: "hush" })
    await eventually(() => server.logs.length > 0)
    expect(server.logs).toHaveLength(1)
    expect(server.logs[0]).toMatchObject({
      message: "request",
      fields: {
        method: "POST",
        path: "/v1/completions",
        status: 200,
        stream: false,
        choices: 1,
        completion_tokens: 2,
        finish: "length:1",
        kept: "1.000,0.500,0.250",
        queue_ms: 1.5,
        first_token_ms: 12,
      },
    })
    expect(JSON.stringify(server.logs)).not.toMatch(/secret|hush/)
  })

  it("counts how the answers ended, however many they are", async () => {
    await server.post("/v1/completions", { prompt: ["x", "y"], n: 20, max_tokens: 1 })
    await eventually(() => server.logs.length > 0)
    expect(server.logs[0]!.fields).toMatchObject({ choices: 40, finish: "length:40" })
  })

  it("names an unknown field once", async () => {
    for (let i = 0; i < 3; i++) await server.post("/v1/completions", { prompt: "x", frobnicate: i })
    await eventually(() => server.logs.length >= 4)
    expect(server.logs.filter((line) => line.fields.field === "frobnicate")).toHaveLength(1)
  })
})
