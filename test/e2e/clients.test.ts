import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import { generateText, streamText } from "ai"
import OpenAI from "openai"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { ServeProcess } from "./ServeProcess.ts"

/** What official clients do with this server; the answers are drawn, the same for the same request and seed. */
const model = "needle-10m-deep"
let server: ServeProcess
let openai: OpenAI
let provider: ReturnType<typeof createOpenAICompatible>

beforeAll(async () => {
  const settings = ["--executor", "sim", "--time-scale", "0", "--sim-output", "random", "--api-key", "sesame"]
  server = await ServeProcess.start(...settings, "--log-level", "warn")
  openai = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "sesame", maxRetries: 0 })
  provider = createOpenAICompatible({
    name: "uniprefill",
    baseURL: `${server.url}/v1`,
    apiKey: "sesame",
    includeUsage: true,
  })
})
afterAll(() => server[Symbol.asyncDispose]())

const messages = [{ role: "user" as const, content: "Who is it?" }]

describe("the openai client", () => {
  it("completions: whole and streamed alike, with usage and the same seed", async () => {
    const ask = { model, prompt: "Once upon a time", max_tokens: 30, seed: 7 }
    const whole = await openai.completions.create(ask)
    const stream = await openai.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })
    let text = ""
    let usage
    for await (const chunk of stream) {
      text += chunk.choices[0]?.text ?? ""
      usage = chunk.usage ?? usage
    }
    expect(text).toBe(whole.choices[0]!.text)
    expect(usage).toMatchObject({ prompt_tokens: whole.usage!.prompt_tokens, completion_tokens: 30 })
    expect((await openai.completions.create({ ...ask, seed: 8 })).choices[0]!.text).not.toBe(text)
  })

  it("chats: n answers, each its own seed's; log-probabilities; a stop across token borders", async () => {
    const ask = { model, messages, max_tokens: 20, seed: 3 }
    const several = await openai.chat.completions.create({ ...ask, n: 3 })
    for (const [i, { message }] of several.choices.entries()) {
      const alone = await openai.chat.completions.create({ ...ask, seed: 3 + i })
      expect(message.content).toBe(alone.choices[0]!.message.content)
    }
    const { choices } = await openai.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3 })
    const tokens = choices[0]!.logprobs!.content!
    expect(tokens).toHaveLength(20)
    const bytes = Uint8Array.from(tokens.flatMap((token) => token.bytes!))
    expect(new TextDecoder().decode(bytes)).toBe(choices[0]!.message.content)

    const text = choices[0]!.message.content!
    const border = tokens[0]!.token.length + tokens[1]!.token.length
    const stop = text.slice(border - 1, border + 1)
    const first = text.indexOf(stop)
    const stopped = await openai.chat.completions.create({ ...ask, stop: [stop] })
    expect(stopped.choices[0]).toMatchObject({ finish_reason: "stop", message: { content: text.slice(0, first) } })
    let streamed = ""
    for await (const chunk of await openai.chat.completions.create({ ...ask, stop, stream: true })) {
      streamed += chunk.choices[0]?.delta.content ?? ""
    }
    expect(streamed).toBe(text.slice(0, first))
  })

  it("responses, whole and streamed", async () => {
    const ask = { model, input: "Who is it?", max_output_tokens: 12, seed: 4 } as const
    const whole = await openai.responses.create({ ...ask, stream: false })
    expect(whole.output_text.length).toBeGreaterThan(5)
    let text = ""
    for await (const event of await openai.responses.create({ ...ask, stream: true })) {
      if (event.type === "response.output_text.delta") text += event.delta
    }
    expect(text).toBe(whole.output_text)
  })

  it("a client that aborts stops hearing, and its request ends", async () => {
    const controller = new AbortController()
    const stream = await openai.chat.completions.create(
      { model, messages, max_tokens: 30_000, stream: true, ...({ ignore_eos: true } as object) },
      { signal: controller.signal },
    )
    let chunks = 0
    for await (const _ of stream) if (++chunks === 3) controller.abort()
    expect(chunks).toBeLessThan(1000)
    const running = async () => {
      const text = await (await fetch(`${server.url}/metrics`)).text()
      return Number(/^vllm:num_requests_running\{.*\} (.*)$/m.exec(text)![1])
    }
    while ((await running()) > 0) await new Promise((resolve) => setTimeout(resolve, 20))
  })

  it("every documented error is the client's own kind of error, with the field", async () => {
    const failure = (request: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> =>
      request.then(
        () => Promise.reject(new Error("it succeeded")),
        (error: InstanceType<typeof OpenAI.APIError>) => error,
      )
    const wrong = await failure(openai.completions.create({ model, prompt: "x", temperature: -1 }))
    expect(wrong).toBeInstanceOf(OpenAI.BadRequestError)
    expect(wrong.param).toBe("temperature")
    const long = await failure(openai.completions.create({ model, prompt: Array(40_000).fill(5) }))
    expect(long.message).toContain("at most 32768 tokens, but prompt has 40000")
    const tools = [{ type: "function" as const, function: { name: "f" } }]
    expect((await failure(openai.chat.completions.create({ model, messages, tools }))).param).toBe("tools")
    expect(await failure(openai.models.retrieve("gpt-9"))).toBeInstanceOf(OpenAI.NotFoundError)
    expect(await failure(openai.embeddings.create({ model, input: "x" }))).toBeInstanceOf(OpenAI.NotFoundError)
    const stranger = new OpenAI({ baseURL: `${server.url}/v1`, apiKey: "wrong", maxRetries: 0 })
    expect(await failure(stranger.models.list())).toBeInstanceOf(OpenAI.AuthenticationError)
    const big = await failure(openai.completions.create({ model, prompt: "x".repeat(17_000_000) }))
    expect(big.status).toBe(413)
    expect((await openai.models.retrieve(model)).id).toBe(model)
  })
})

describe("the AI SDK", () => {
  it("generates text, with usage and why it ended", async () => {
    const { text, usage, finishReason } = await generateText({
      model: provider.chatModel(model),
      system: "Be brief.",
      messages,
      maxOutputTokens: 10,
      seed: 1,
    })
    expect(text.length).toBeGreaterThan(3)
    expect(usage.outputTokens).toBe(10)
    expect(finishReason).toBe("length")
  })

  it("streams text, the same", async () => {
    const ask = { model: provider.chatModel(model), messages, maxOutputTokens: 25, seed: 2 }
    const whole = await generateText(ask)
    const result = streamText(ask)
    let text = ""
    for await (const piece of result.textStream) text += piece
    expect(text).toBe(whole.text)
    expect((await result.usage).outputTokens).toBe(25)
    expect(await result.finishReason).toBe("length")
  })

  it("completes a prompt, stops where it is told, and is aborted", async () => {
    const ask = { model: provider.completionModel(model), prompt: "Once upon a time", maxOutputTokens: 40, seed: 3 }
    const { text } = await generateText(ask)
    const stop = text.slice(8, 11)
    expect((await generateText({ ...ask, stopSequences: [stop] })).text).toBe(text.slice(0, text.indexOf(stop)))
    const controller = new AbortController()
    const request = generateText({ ...ask, maxOutputTokens: 30_000, abortSignal: controller.signal, maxRetries: 0 })
    controller.abort()
    await expect(request).rejects.toThrow(/abort/i)
  })

  it("says what the server said where a request is wrong", async () => {
    const request = generateText({ model: provider.chatModel("gpt-9"), messages, maxRetries: 0 })
    await expect(request).rejects.toThrow('the model "gpt-9" does not exist; this server has "needle-10m-deep"')
    const hot = generateText({ model: provider.chatModel(model), messages, temperature: 500, maxRetries: 0 })
    await expect(hot).rejects.toThrow("temperature: expected a value between 0 and 100, got 500")
  })
})
