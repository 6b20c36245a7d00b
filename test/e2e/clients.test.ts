import { createOpenAICompatible } from "@ai-sdk/openai-compatible"
import { generateText, streamText } from "ai"
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
