import { readFileSync } from "node:fs"
import { createRequire } from "node:module"
import { dirname } from "node:path"
import OpenAI from "openai"
import { afterAll, beforeAll, describe, expect, it } from "vitest"
import { ServeProcess } from "./ServeProcess.ts"

const model = dirname(createRequire(import.meta.url).resolve("@uniprefill/needle-10m-deep/package.json"))
const haystack = readFileSync(`${model}/demo/haystack.txt`, "utf8")

const needle = " The special magic number for quiet river is 4815162."
const question = "\nQuestion: What is the special magic number for quiet river?\nAnswer:"

/** About 2,000 tokens with the needle in the middle. */
const longPrompt = haystack.slice(0, 4000) + needle + haystack.slice(4000, 8000) + question

let server: ServeProcess
let client: OpenAI
const clientOf = ({ url }: ServeProcess) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 })
beforeAll(async () => {
  server = await ServeProcess.start("--log-format", "json")
  client = clientOf(server)
})
afterAll(() => server[Symbol.asyncDispose]())

/** Waits for a condition. */
const until = async (condition: () => boolean | Promise<boolean>): Promise<void> => {
  while (!(await condition())) await new Promise((resolve) => setTimeout(resolve, 20))
}

/** Fields of this server, which the client's types do not know. */
const uniprefill = (fields: object) => ({ uniprefill: fields }) as object

const metric = async (line: RegExp) => {
  const text = await (await fetch(`${server.url}/metrics`)).text()
  return Number(line.exec(text)![1])
}
const inUse = () => metric(/^vllm:kv_cache_usage_perc\{.*\} (.*)$/m)
const aborted = () => metric(/^vllm:request_success_total\{.*finished_reason="abort".*\} (.*)$/m)
const promptRows = async () =>
  (await metric(/^vllm:iteration_tokens_total_sum\{.*\} (.*)$/m)) -
  (await metric(/^vllm:generation_tokens_total\{.*\} (.*)$/m))

describe("the embedded model behind `uniprefill serve`", () => {
  it("is listed under the name of its directory", async () => {
    const { data } = await client.models.list()
    expect(data[0]).toMatchObject({ id: "needle-10m-deep", max_model_len: 32_768 })
  })

  it("finds the number, with tokens dropped and dense", async () => {
    const ask = { model: "needle-10m-deep", prompt: longPrompt, max_tokens: 16, temperature: 0 }
    const dropped: any = await client.completions.create({ ...ask, ...uniprefill({ report: true }) })
    expect(dropped.choices[0]).toMatchObject({ text: " 4815162", finish_reason: "stop" })
    expect(dropped.uniprefill.kept).toHaveLength(4)
    expect(dropped.uniprefill.kept[3]).toBeLessThan(0.7)
    expect(dropped.usage.prompt_tokens).toBeGreaterThan(1024)

    const dense: any = await client.completions.create({ ...ask, ...uniprefill({ report: true, enabled: false }) })
    expect(dense.choices[0].text).toBe(" 4815162")
    expect(dense.uniprefill).toEqual({ kept: [1] })
  })

  it("streams the same answer, with usage", async () => {
    const prompt = needle + question
    const stream = await client.completions.create({
      model: "needle-10m-deep",
      prompt,
      stream: true,
      stream_options: { include_usage: true },
    })
    let text = ""
    let usage: OpenAI.CompletionUsage | null | undefined
    for await (const chunk of stream) {
      text += chunk.choices[0]?.text ?? ""
      usage = chunk.usage
    }
    expect(text).toBe(" 4815162")
    expect(usage!.completion_tokens).toBeGreaterThan(1)
  })

  it("answers many at once as it answers each alone", async () => {
    const ask = (number: number) => ({
      model: "needle-10m-deep",
      prompt: needle.replace("4815162", String(number)) + question,
      temperature: 0,
    })
    const numbers = Array.from({ length: 12 }, (_, i) => 1_234_567 + i * 111_111)
    const answers = await Promise.all(numbers.map((number) => client.completions.create(ask(number))))
    const alone = await client.completions.create(ask(numbers[5]!))
    expect(answers[5]!.choices[0]!.text).toBe(alone.choices[0]!.text)
    expect(answers.filter(({ choices }, i) => choices[0]!.text === ` ${numbers[i]}`).length).toBeGreaterThan(6)
  })

  it("gives several answers, each as if asked for alone, and computes their prompt once", async () => {
    // Salts of their own, so that nothing is found in the cache.
    const ask = { model: "needle-10m-deep", prompt: longPrompt, max_tokens: 24, temperature: 2 }
    const rows = await promptRows()
    const salted = (salt: string) => ({ ...({ cache_salt: salt, ignore_eos: true } as object) })
    const several = await client.completions.create({ ...ask, n: 3, seed: 41, ...salted("several") })
    const { prompt_tokens: promptTokens, completion_tokens: completionTokens } = several.usage!
    expect((await promptRows()) - rows).toBe(promptTokens)
    expect(completionTokens).toBe(3 * 24)
    const alone = [41, 42, 43].map((seed) => client.completions.create({ ...ask, seed, ...salted(`seed ${seed}`) }))
    const texts = (await Promise.all(alone)).map(({ choices }) => choices[0]!.text)
    expect(several.choices.map(({ text }) => text)).toEqual(texts)
    expect(new Set(texts).size).toBe(3)
    expect((await promptRows()) - rows).toBe(4 * promptTokens)
  })

  it("goes on with a conversation from what it has generated, tokens dropped, without changing the answer", async () => {
    const ask = { model: "needle-10m-deep", temperature: 0, max_tokens: 300, ...({ ignore_eos: true } as object) }
    const first = await client.completions.create({ ...ask, prompt: longPrompt })
    const prompt = `${longPrompt}${first.choices[0]!.text}${question}`
    const second: any = await client.completions.create({
      ...ask,
      prompt,
      max_tokens: 40,
      ...uniprefill({ report: true }),
    })
    expect(second.uniprefill.kept[3]).toBeLessThan(0.7)
    const cached = second.usage.prompt_tokens_details.cached_tokens
    expect(cached).toBeGreaterThan(first.usage!.prompt_tokens + 128)
    const salted = { cache_salt: "nobody else's" } as object
    const without = await client.completions.create({ ...ask, prompt, max_tokens: 40, ...salted })
    expect(without.usage!.prompt_tokens_details!.cached_tokens).toBe(0)
    expect(second.choices[0].text).toBe(without.choices[0]!.text)
  })

  it("keeps nothing of a client that went away, whatever the number of its answers", async () => {
    const before = await aborted()
    const stream = await client.completions.create({
      model: "needle-10m-deep",
      prompt: longPrompt,
      n: 3,
      // More than are computed until the server hears that the client has gone, however late that is.
      max_tokens: 20_000,
      stream: true,
      ...({ ignore_eos: true } as object),
    })
    for await (const _ of stream) break
    await until(async () => (await aborted()) > before)
    await until(async () => (await inUse()) === 0)
    expect(await aborted()).toBe(before + 3)
  })

  it("refuses a prompt that is too long, with both numbers", async () => {
    const request = client.completions.create({ model: "needle-10m-deep", prompt: Array(40_000).fill(500) })
    await expect(request).rejects.toThrow(
      "this model takes at most 32768 tokens, but prompt has 40000 and max_tokens = 16 asks for 40016 in all",
    )
  })

  it("logs a line a request, without the prompt", () => {
    const lines = server.stderr.trim().split("\n")
    const requests = lines.map((line) => JSON.parse(line)).filter((line) => line.message === "request")
    expect(requests.length).toBeGreaterThan(10)
    expect(requests.some((line) => line.annotations.kept?.includes(","))).toBe(true)
    expect(server.stderr).not.toContain("magic number")
  })
})

describe("signals", () => {
  it("SIGTERM lets a running answer finish, then ends with 0", async () => {
    await using own = await ServeProcess.start("--drain-seconds", "3600")
    const stream = await clientOf(own).completions.create({
      model: "needle-10m-deep",
      prompt: needle,
      // It is still under way when the signal comes.
      max_tokens: 600,
      stream: true,
      ...({ ignore_eos: true } as object),
    })
    let chunks = 0
    let finish: string | null = null
    for await (const chunk of stream) {
      if (chunks++ === 0) own.signal("SIGTERM")
      finish = chunk.choices[0]?.finish_reason ?? finish
    }
    expect({ finish, code: await own.ended }).toEqual({ finish: "length", code: 0 })
    expect(own.stderr).toContain("draining")
  })

  it("a second signal ends it at once", async () => {
    await using own = await ServeProcess.start()
    const stream = await clientOf(own).completions.create({
      model: "needle-10m-deep",
      prompt: needle,
      max_tokens: 20_000,
      stream: true,
      ...({ ignore_eos: true } as object),
    })
    let seen = 0
    const reading = (async () => {
      for await (const _ of stream) if (seen++ === 0) own.signal("SIGINT")
      return "complete"
    })().catch(() => "cut off")
    await until(() => own.stderr.includes("draining"))
    // Within half a second it would count as the same press.
    own.signal("SIGINT")
    await new Promise((resolve) => setTimeout(resolve, 600))
    own.signal("SIGINT")
    expect({ code: await own.ended, reading: await reading }).toEqual({ code: 130, reading: "cut off" })
    expect(seen).toBeGreaterThan(0)
  })
})
