import assert from "node:assert/strict"
import OpenAI from "openai"

/** What the official client does with a server, wherever its model runs. The server wants the key `sesame`. */
export interface OpenAiTarget {
  readonly url: string
  readonly openai: OpenAI
  readonly model: string
}

export const openAiTarget = (url: string, model: string): OpenAiTarget => ({
  url,
  openai: new OpenAI({ baseURL: `${url}/v1`, apiKey: "sesame", maxRetries: 0 }),
  model,
})

const messages = [{ role: "user" as const, content: "Who is it?" }]

/** Drawn, and as long as asked for: a field of this server, which the client's types do not know. */
const drawn = { temperature: 1, ...({ ignore_eos: true } as object) }

/** Each throws where the server does something else. */
export const openAiCases: Readonly<Record<string, (target: OpenAiTarget) => Promise<void>>> = {
  "completions: whole and streamed alike, with usage and the same seed": async ({ openai, model }) => {
    const ask = { model, prompt: "Once upon a time", max_tokens: 30, seed: 7, ...drawn }
    const whole = await openai.completions.create(ask)
    const stream = await openai.completions.create({ ...ask, stream: true, stream_options: { include_usage: true } })
    let text = ""
    let usage
    for await (const chunk of stream) {
      text += chunk.choices[0]?.text ?? ""
      usage = chunk.usage ?? usage
    }
    assert.equal(text, whole.choices[0]!.text)
    assert.equal(usage?.prompt_tokens, whole.usage!.prompt_tokens)
    assert.equal(usage?.completion_tokens, 30)
    assert.notEqual((await openai.completions.create({ ...ask, seed: 8 })).choices[0]!.text, text)
  },

  "chats: n answers, each its own seed's; log-probabilities; a stop across token borders": async ({
    openai,
    model,
  }) => {
    const ask = { model, messages, max_tokens: 20, seed: 3, ...drawn }
    const several = await openai.chat.completions.create({ ...ask, n: 3 })
    for (const [i, { message }] of several.choices.entries()) {
      const alone = await openai.chat.completions.create({ ...ask, seed: 3 + i })
      assert.equal(message.content, alone.choices[0]!.message.content)
    }
    const { choices } = await openai.chat.completions.create({ ...ask, logprobs: true, top_logprobs: 3 })
    const tokens = choices[0]!.logprobs!.content!
    assert.equal(tokens.length, 20)
    const bytes = Uint8Array.from(tokens.flatMap((token) => token.bytes!))
    const text = choices[0]!.message.content!
    assert.equal(new TextDecoder().decode(bytes), text)

    const border = tokens[0]!.token.length + tokens[1]!.token.length
    const stop = text.slice(border - 1, border + 1)
    const first = text.indexOf(stop)
    const stopped = await openai.chat.completions.create({ ...ask, stop: [stop] })
    assert.equal(stopped.choices[0]!.finish_reason, "stop")
    assert.equal(stopped.choices[0]!.message.content, text.slice(0, first))
    let streamed = ""
    for await (const chunk of await openai.chat.completions.create({ ...ask, stop, stream: true })) {
      streamed += chunk.choices[0]?.delta.content ?? ""
    }
    assert.equal(streamed, text.slice(0, first))
  },

  "responses, whole and streamed": async ({ openai, model }) => {
    const ask = { model, input: "Who is it?", max_output_tokens: 12, seed: 4, ...drawn } as const
    const whole = await openai.responses.create({ ...ask, stream: false })
    assert.ok(whole.output_text.length > 5)
    let text = ""
    for await (const event of await openai.responses.create({ ...ask, stream: true })) {
      if (event.type === "response.output_text.delta") text += event.delta
    }
    assert.equal(text, whole.output_text)
  },

  "a client that aborts stops hearing, and its request ends": async ({ url, openai, model }) => {
    const controller = new AbortController()
    const stream = await openai.chat.completions.create(
      { model, messages, max_tokens: 30_000, stream: true, ...drawn },
      { signal: controller.signal },
    )
    let chunks = 0
    for await (const _ of stream) if (++chunks === 3) controller.abort()
    assert.ok(chunks < 1000)
    const running = async () => {
      const text = await (await fetch(`${url}/metrics`)).text()
      return Number(/^vllm:num_requests_running\{.*\} (.*)$/m.exec(text)![1])
    }
    while ((await running()) > 0) await new Promise((resolve) => setTimeout(resolve, 20))
  },

  "every documented error is the client's own kind of error, with the field": async ({ url, openai, model }) => {
    const failure = (request: Promise<unknown>): Promise<InstanceType<typeof OpenAI.APIError>> =>
      request.then(
        () => Promise.reject(new Error("it succeeded")),
        (error: InstanceType<typeof OpenAI.APIError>) => error,
      )
    const wrong = await failure(openai.completions.create({ model, prompt: "x", temperature: -1 }))
    assert.ok(wrong instanceof OpenAI.BadRequestError)
    assert.equal(wrong.param, "temperature")
    const long = await failure(openai.completions.create({ model, prompt: Array(40_000).fill(5) }))
    assert.match(long.message, /at most 32768 tokens, but prompt has 40000/)
    const tools = [{ type: "function" as const, function: { name: "f" } }]
    assert.equal((await failure(openai.chat.completions.create({ model, messages, tools }))).param, "tools")
    assert.ok((await failure(openai.models.retrieve("gpt-9"))) instanceof OpenAI.NotFoundError)
    assert.ok((await failure(openai.embeddings.create({ model, input: "x" }))) instanceof OpenAI.NotFoundError)
    const stranger = new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong", maxRetries: 0 })
    assert.ok((await failure(stranger.models.list())) instanceof OpenAI.AuthenticationError)
    const big = await failure(openai.completions.create({ model, prompt: "x".repeat(17_000_000) }))
    assert.equal(big.status, 413)
    assert.equal((await openai.models.retrieve(model)).id, model)
  },
}
