import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import { generateText, streamText } from "ai"
import OpenAI from "openai"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { openAiCases, openAiTarget } from "./OpenAiCases.ts"
import { ServeProcess } from "./ServeProcess.ts"

/** What official clients do with this server; the answers are drawn, the same for the same request and seed. */
const model = "needle-10m-deep"
let server: ServeProcess
let provider: ReturnType<typeof createOpenAICompatible>

beforeAll(async () => {
  const settings = ["--executor", "sim", "--time-scale", "0", "--sim-output", "random", "--api-key", "sesame"]
  server = await ServeProcess.start(...settings, "--log-level", "warn")
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
  it.each(Object.entries(openAiCases))("%s", async (_, run) => {
    await expect(run(openAiTarget(server.url, model))).resolves.toBeUndefined()
  })
})

describe("what goes wrong on the server's side", () => {
  const clientOf = ({ url }: ServeProcess, maxRetries = 0) =>
    new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries })
  const sim = ["--executor", "sim", "--time-scale", "0", "--log-level", "fatal"]

  it("is the openai client's own kind of error, whatever it is", async () => {
    await using failing = await ServeProcess.start(...sim, "--failure-rate", "1")
    const openai = clientOf(failing)
    const kinds = new Map<number, unknown>()
    // Drawn from seven types: that one never came in 200 would be a chance of 1 in 10¹³.
    for (let i = 0; i < 200; i++) {
      const error: unknown = await openai.completions.create({ model, prompt: "x" }).catch((cause: unknown) => cause)
      expect(error).toBeInstanceOf(OpenAI.APIError)
      if (error instanceof OpenAI.APIError) kinds.set(error.status as number, error)
    }
    expect([...kinds.keys()].sort((a, b) => a - b)).toEqual([400, 401, 404, 429, 500, 503])
    expect(kinds.get(429)).toBeInstanceOf(OpenAI.RateLimitError)
    expect((kinds.get(429) as InstanceType<typeof OpenAI.APIError>).headers!.get("retry-after")).toBe("1")
    for (const status of [500, 503]) expect(kinds.get(status)).toBeInstanceOf(OpenAI.InternalServerError)
  })

  it("is tried again by clients that may, until it succeeds", async () => {
    // This seed fails the first request, and not the second.
    const failures = ["--failure-rate", "0.5", "--failure-types", "rate_limit", "--sim-seed", "7"]
    await using failing = await ServeProcess.start(...sim, ...failures)
    const { choices } = await clientOf(failing, 20).completions.create({ model, prompt: "x", max_tokens: 4 })
    expect(choices[0]!.finish_reason).toBe("length")
  })

  it("ends a stream that has begun as an error, which the client throws", async () => {
    await using failing = await ServeProcess.start(...sim, "--sim-failure-rate", "0.1")
    const openai = clientOf(failing)
    const endings = new Set<string>()
    for (let i = 0; i < 60 && endings.size < 2; i++) {
      const ask = {
        model,
        prompt: `prompt ${i}`,
        max_tokens: 8,
        stream: true as const,
        ...({ ignore_eos: true } as object),
      }
      const ending = await (async () => {
        let finish: string | null = null
        for await (const chunk of await openai.completions.create(ask))
          finish = chunk.choices[0]?.finish_reason ?? finish
        return String(finish)
      })().catch((error: Error) => error.message)
      endings.add(ending.includes("a simulated failure") ? "failed" : ending)
    }
    expect([...endings].sort()).toEqual(["failed", "length"])
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
