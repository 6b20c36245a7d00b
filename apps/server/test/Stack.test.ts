import { layerReference } from "@uniprefill/executor/reference/ReferenceExecutor"
import { makeReferenceModel, referenceSpec } from "@uniprefill/executor/reference/ReferenceModel"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Context, Effect, Layer, Logger, Scope } from "effect"
import { HttpServer } from "effect/http"
import OpenAI from "openai"
import * as EngineLive from "uniprefill/model/EngineLive"
import { Dropping } from "uniprefill/answers/Dropping"
import { Shadow } from "uniprefill/answers/Shadow"
import * as HttpApp from "uniprefill/http/HttpApp"
import * as HttpListener from "uniprefill/http/HttpListener"
import { modelOptions, type ModelSettings } from "uniprefill/options/ModelOptions"
import { serverLimits } from "uniprefill/http/ServerLimits"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { closeScope } from "./FakeEngine.ts"
import { collect } from "./TestServer.ts"

/**
 * The real engine, scheduler and tokenizer behind the HTTP application. The executor is the reference one with random
 * weights in two small layers, so answers are gibberish, but reproducible gibberish.
 */
const executorOf: EngineLive.ExecutorOf = ({ spec }) => {
  const small = referenceSpec({ layers: ["full", "full"], intermediate: 16, vocab: spec.vocabSize })
  return layerReference({ model: makeReferenceModel(small, 7), slabs: 256, slots: 4, maxTokens: 1024 })
}

const settings = {
  ...Object.fromEntries(Object.entries(modelOptions).map(([name, { defaultValue }]) => [name, defaultValue])),
  "drop-schedule": "off",
} as ModelSettings

const scope = Scope.makeUnsafe()
let url: string
let client: OpenAI
let tokenizer: Tokenizer["Service"]

beforeAll(async () => {
  const limits = serverLimits
  const layers = HttpApp.layer({ apiKeys: [], limits, stallSeconds: 60 }).pipe(
    Layer.provide([Shadow.none, Dropping.layer]),
    Layer.provideMerge(EngineLive.layer(settings, ["gibberish"], executorOf)),
    Layer.provideMerge(HttpListener.layer({ host: "127.0.0.1", port: 0, limits, closeGraceMs: 100 })),
    Layer.provide(Logger.layer([])),
  )
  const context = await Effect.runPromise(Layer.buildWithScope(layers, scope))
  url = HttpServer.formatAddress(Context.get(context, HttpServer.HttpServer).address)
  tokenizer = Context.get(context, Tokenizer)
  client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 })
})
afterAll(() => closeScope(scope))

const ask = { model: "gibberish", prompt: "The quiet river runs", max_tokens: 12, temperature: 0 } as const

describe("the engine behind the server", () => {
  it("answers, streamed and whole alike", async () => {
    const whole = await client.completions.create(ask)
    const chunks = await collect(
      await client.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } }),
    )
    expect(chunks.map((chunk) => chunk.choices[0]?.text ?? "").join("")).toBe(whole.choices[0]!.text)
    expect(chunks.at(-1)!.usage).toEqual(whole.usage)
    expect(whole.usage!.completion_tokens).toBeGreaterThan(0)
  })

  it("streams no empty chunk: the last text carries how it ended", async () => {
    const chunks = await collect(await client.completions.create({ ...ask, stream: true }))
    const last = chunks.at(-1)!.choices[0]!
    expect(last.finish_reason).toBe("length")
    expect(chunks.map((chunk) => chunk.choices[0]!.text)).not.toContain("")
    const reasons = chunks.slice(0, -1).map((chunk) => chunk.choices[0]!.finish_reason)
    expect(new Set(reasons)).toEqual(new Set([null]))
  })

  it("gives the same answers for a seed, alone or beside others", async () => {
    const seeded = { ...ask, temperature: 1, seed: 11 }
    const alone = await client.completions.create(seeded)
    const three = await client.completions.create({ ...seeded, n: 3 })
    expect(three.choices[0]!.text).toBe(alone.choices[0]!.text)
    expect(new Set(three.choices.map((choice) => choice.text)).size).toBeGreaterThan(1)
    expect(three.usage!.prompt_tokens).toBe(alone.usage!.prompt_tokens)
  })

  it("gives more answers than can run at a time, each its own seed's, whole and streamed", async () => {
    const seeded = { ...ask, temperature: 2, n: 6, seed: 21 }
    const alone = []
    for (let i = 0; i < 6; i++) {
      const { choices } = await client.completions.create({ ...seeded, n: 1, seed: 21 + i, stream: false })
      alone.push(choices[0]!.text)
    }
    expect(new Set(alone).size).toBe(6)
    const whole = await client.completions.create(seeded)
    expect(whole.choices.map(({ text }) => text)).toEqual(alone)
    expect(whole.usage).toMatchObject({ completion_tokens: 6 * 12 })
    const texts = alone.map(() => "")
    const stream = await client.completions.create({ ...seeded, stream: true })
    for await (const { choices } of stream) texts[choices[0]!.index] += choices[0]!.text
    expect(texts).toEqual(alone)
  })

  it("reports log-probabilities of the tokens it gives", async () => {
    const { choices } = await client.completions.create({ ...ask, logprobs: 3, max_tokens: 4 })
    const { tokens, token_logprobs, top_logprobs } = choices[0]!.logprobs!
    expect(tokens).toHaveLength(4)
    for (const [i, token] of tokens!.entries()) {
      expect(token_logprobs![i]).toBeLessThanOrEqual(0)
      expect(top_logprobs![i]![token]).toBeCloseTo(token_logprobs![i]!, 6)
    }
  })

  it("says where each token begins in the text, also of characters that several tokens make", async () => {
    const parts = await Effect.runPromise(tokenizer.encode("🦔漢字ünï the of and to in", { addSpecialTokens: false }))
    const drawn = { ignore_eos: true, temperature: 100, seed: 3, allowed_token_ids: [...parts] }
    const long = { ...ask, logprobs: 1, max_tokens: 200, ...(drawn as object) }
    const whole = (await client.completions.create(long)).choices[0]!
    const { tokens, text_offset: offsets } = whole.logprobs!
    expect(tokens).toHaveLength(200)
    const halves = tokens!.filter((token) => token.includes("\ufffd")).length
    expect(Math.min(halves, 200 - halves)).toBeGreaterThan(10)
    for (const [i, token] of tokens!.entries()) {
      const at = offsets![i]!
      expect(at).toBeGreaterThanOrEqual(i === 0 ? 0 : offsets![i - 1]!)
      expect(at).toBeLessThanOrEqual(whole.text.length)
      expect(token.includes("\ufffd") || whole.text.startsWith(token, at)).toBe(true)
    }
    const streamed = { tokens: [] as Array<string>, offsets: [] as Array<number>, text: "" }
    for await (const { choices } of await client.completions.create({ ...long, stream: true })) {
      const { text, logprobs } = choices[0]!
      streamed.text += text
      streamed.tokens.push(...(logprobs?.tokens ?? []))
      streamed.offsets.push(...(logprobs?.text_offset ?? []))
    }
    expect(streamed).toEqual({ tokens, offsets, text: whole.text })
  })

  it("ends before a stop string, and says which", async () => {
    const { choices } = await client.completions.create(ask)
    const stop = choices[0]!.text.slice(3, 6)
    const stopped = await client.completions.create({ ...ask, stop: [stop] })
    expect(stopped.choices[0]).toMatchObject({ finish_reason: "stop", stop_reason: stop })
    expect(stopped.choices[0]!.text).toBe(choices[0]!.text.slice(0, choices[0]!.text.indexOf(stop)))
  })

  it("frees everything when a client goes away", async () => {
    const stream = await client.completions.create({ ...ask, max_tokens: 900, stream: true, ignore_eos: true } as never)
    for await (const _ of stream as unknown as AsyncIterable<unknown>) break
    const gauge = async (name: string) => {
      const text = await (await fetch(`${url}/metrics`)).text()
      return Number(new RegExp(`^${name}\\{[^}]*\\} (.*)$`, "m").exec(text)?.[1])
    }
    await expect.poll(() => gauge("vllm:kv_cache_usage_perc")).toBe(0)
    await expect.poll(() => gauge("vllm:num_requests_running")).toBe(0)
  })

  it("exposes the metrics under vLLM's names, with HELP, TYPE and labels", async () => {
    const text = await (await fetch(`${url}/metrics`)).text()
    expect(text).toContain("# TYPE vllm:num_requests_running gauge")
    expect(text).toContain("# HELP vllm:generation_tokens_total ")
    expect(text).toMatch(/^vllm:generation_tokens_total\{.*model_name="gibberish".*\} [1-9]/m)
    expect(text).toMatch(/^vllm:time_to_first_token_seconds_bucket\{.*le="0.001".*\} \d+$/m)
    expect(text).toMatch(/^vllm:time_to_first_token_seconds_bucket\{.*le="\+Inf".*\} \d+$/m)
    expect(text).toMatch(/^vllm:request_success_total\{.*finished_reason="length".*\} [1-9]/m)
    const counters = [...text.matchAll(/^# TYPE (\S+) counter$/gm)].map((match) => match[1]!)
    expect(counters.length).toBeGreaterThan(5)
    expect(counters.filter((name) => !name.endsWith("_total"))).toEqual([])
  })

  it("refuses what could never fit, before any work", async () => {
    const prompt = Array.from({ length: 1020 }, (_, i) => 300 + (i % 100))
    await expect(client.completions.create({ ...ask, prompt })).rejects.toThrow(
      "this model takes at most 1024 tokens, but prompt has 1020 and max_tokens = 12 asks for 1032 in all",
    )
  })

  it("gives back the prompt when it is echoed", async () => {
    const { choices } = await client.completions.create({ ...ask, echo: true })
    expect(choices[0]!.text.startsWith(ask.prompt)).toBe(true)
    const tokens = await Effect.runPromise(tokenizer.encode(ask.prompt, { addSpecialTokens: true }))
    const echoed = await client.completions.create({ ...ask, prompt: [...tokens], echo: true })
    expect(echoed.choices[0]!.text).toBe(choices[0]!.text)
  })
})
