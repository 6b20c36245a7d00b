import { ChatCompletion, ChatCompletionChunk } from "@uniprefill/openai/ChatCompletion"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Schema } from "effect"
import fc from "fast-check"
import { reasoningMarks, ReasoningSplit } from "uniprefill/chat/ReasoningSplit"
import { afterEach, beforeEach, describe, expect, it, test } from "vitest"
import { collect, startServer, type TestServer } from "./TestServer.ts"
import { modelDirectory } from "./TestServer.ts"

let server: TestServer
beforeEach(async () => {
  server = await startServer()
})
afterEach(() => server.close())

const user = (content: string) => ({ role: "user" as const, content })
const chat = async (fields: object) => {
  const response = await server.post("/v1/chat/completions", {
    messages: [user("Who is it?")],
    max_tokens: 2,
    ...fields,
  })
  return { status: response.status, json: (await response.json()) as any }
}

/** What the engine was asked, as text. */
const asked = async (at = 0): Promise<string> => {
  const decode = Effect.map(Tokenizer, (tokenizer) =>
    tokenizer.decode(server.engine.requests[at]!.prompt, { skipSpecialTokens: false }),
  )
  return Effect.runPromise(Effect.provide(decode, Tokenizer.layer({ directory: modelDirectory })))
}

describe("with the openai client", () => {
  it("answers a conversation through the model's template", async () => {
    const answer = await server.client.chat.completions.create({
      model: "needle",
      messages: [
        { role: "system", content: "Be brief." },
        user("some text\nWhat is it?"),
        { role: "assistant", content: "A text." },
        {
          role: "user",
          content: [
            { type: "text", text: "more text" },
            { type: "text", text: "And now?" },
          ],
        },
      ],
      max_completion_tokens: 3,
    })
    const checked = Schema.decodeUnknownSync(ChatCompletion)(answer)
    expect(checked.choices).toEqual([
      {
        index: 0,
        message: { role: "assistant", content: " 0 1 2", refusal: null },
        logprobs: null,
        finish_reason: "length",
        stop_reason: null,
      },
    ])
    expect(checked.id).toMatch(/^chatcmpl-[0-9a-f]{32}$/)
    expect(await asked()).toBe(
      "Be brief.\nsome text\nQuestion: What is it?\nAnswer: A text.\nmore text\nQuestion: And now?\nAnswer:",
    )
  })

  it("streams deltas: the role first, then text, then how it ended, then the usage", async () => {
    const stream = await server.client.chat.completions.create({
      model: "needle",
      messages: [user("Who?")],
      max_tokens: 3,
      stream: true,
      stream_options: { include_usage: true },
    })
    const chunks = (await collect(stream)).map((chunk) => Schema.decodeUnknownSync(ChatCompletionChunk)(chunk))
    expect(chunks[0]!.choices[0]!.delta).toEqual({ role: "assistant", content: "" })
    expect(chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("")).toBe(" 0 1 2")
    expect(chunks.flatMap((chunk) => chunk.choices[0]?.finish_reason ?? [])).toEqual(["length"])
    expect(chunks.at(-1)).toMatchObject({ choices: [], usage: { completion_tokens: 3 } })
    expect(new Set(chunks.map(({ id, object }) => `${id} ${object}`)).size).toBe(1)
  })

  it("n answers stream side by side, each under its index", async () => {
    const stream = await server.client.chat.completions.create({
      model: "needle",
      messages: [user("Who?")],
      n: 3,
      max_tokens: 4,
      stream: true,
    })
    const texts = ["", "", ""]
    const roles: Array<number> = []
    for (const { choices } of await collect(stream)) {
      const { index, delta } = choices[0]!
      texts[index] += delta.content ?? ""
      roles.push(...(delta.role === undefined ? [] : [index]))
    }
    expect(texts).toEqual(Array(3).fill(" 0 1 2 3"))
    expect(roles).toEqual([0, 1, 2])
  })

  it("has log-probabilities with bytes, whole and streamed alike", async () => {
    const ask = { model: "needle", messages: [user("Who?")], logprobs: true, top_logprobs: 2, max_tokens: 3 }
    const { choices } = await server.client.chat.completions.create(ask)
    const { content } = choices[0]!.logprobs!
    expect(content).toHaveLength(3)
    for (const { token, bytes, logprob, top_logprobs } of content!) {
      expect(new TextDecoder().decode(Uint8Array.from(bytes!))).toBe(token)
      expect(logprob).toBe(-0.5)
      expect(top_logprobs).toHaveLength(2)
    }
    const streamed = await collect(await server.client.chat.completions.create({ ...ask, stream: true }))
    expect(streamed.flatMap((chunk) => chunk.choices[0]?.logprobs?.content ?? [])).toEqual(content)
    expect(
      (await server.client.chat.completions.create({ ...ask, top_logprobs: 0 })).choices[0]!.logprobs!.content![0]!
        .top_logprobs,
    ).toEqual([])
  })
})

describe("how messages become a prompt", () => {
  it("goes on with the last message where it is asked to, and leaves the opening out", async () => {
    const messages = [user("Who is it?"), { role: "assistant", content: "It is" }]
    await chat({ messages, add_generation_prompt: false, continue_final_message: true })
    expect(await asked(0)).toBe("\nQuestion: Who is it?\nAnswer: It is")
    await chat({ messages: [user("Who is it?")], add_generation_prompt: false })
    expect(await asked(1)).toBe("\nQuestion: Who is it?")
    expect(await chat({ messages, continue_final_message: true })).toMatchObject({
      status: 400,
      json: { error: { param: "continue_final_message" } },
    })
  })

  it("is what /tokenize and /render say", async () => {
    const messages = [user("some text\nWho is it?")]
    await chat({ messages })
    const tokens = [...server.engine.requests[0]!.prompt]
    const tokenized: any = await (await server.post("/tokenize", { messages, return_token_strs: true })).json()
    expect(tokenized).toMatchObject({ count: tokens.length, tokens })
    expect(tokenized.token_strs.join("")).toBe("some text\nQuestion: Who is it?\nAnswer:")
    const [conversation, prompts]: any = await (await server.post("/v1/chat/completions/render", { messages })).json()
    expect(conversation).toEqual(messages)
    expect(prompts).toEqual([{ prompt_token_ids: tokens, prompt: "some text\nQuestion: Who is it?\nAnswer:" }])
    const texts = { prompt: ["a", "b"], max_tokens: 1 }
    const rendered: any = await (await server.post("/v1/completions/render", texts)).json()
    expect(rendered.map(({ prompt }: any) => prompt)).toEqual(["a", "b"])
    expect((await server.post("/tokenize", { messages, prompt: "x" })).status).toBe(400)
    expect(server.engine.requests).toHaveLength(1)
  })

  it("is as long an answer as fits where nothing is said", async () => {
    const response = await server.post("/v1/chat/completions", { messages: [user("Who?")] })
    expect(response.status).toBe(200)
    expect(server.engine.requests[0]!.maxTokens).toBeUndefined()
  })
})

describe("a 400 that names the field", () => {
  test.each([
    [{ messages: [] }, "messages", "messages: expected at least one message, got a list of 0"],
    [{ messages: "hi" }, "messages", 'messages: expected a list of messages, got "hi"'],
    [
      { messages: [{ role: "robot", content: "x" }] },
      "messages[0].role",
      'messages[0].role: expected one of system, developer, user, assistant, got "robot"',
    ],
    [
      { messages: [{ role: "user" }] },
      "messages[0].content",
      "messages[0].content: expected a string or a list of parts, got nothing",
    ],
    [
      { messages: [{ role: "user", content: [{ type: "image_url", image_url: { url: "x" } }] }] },
      "messages[0].content[0].type",
      'messages[0].content[0].type: expected "text": this model reads text only, got "image_url"',
    ],
    [
      { messages: [{ role: "tool", content: "x" }] },
      "messages[0].role",
      'messages[0].role: expected system, developer, user or assistant: tools are not supported, got "tool"',
    ],
    [{ tools: [{ type: "function", function: { name: "f" } }] }, "tools", "tools are not supported by this server"],
    [
      { response_format: { type: "json_object" } },
      "response_format",
      "response_format is not supported by this server: answers are plain text",
    ],
    [{ top_logprobs: 3 }, "top_logprobs", "top_logprobs needs logprobs to be true"],
    [{ logprobs: true, top_logprobs: 21 }, "top_logprobs", "top_logprobs: expected a value between 0 and 20, got 21"],
    [
      { chat_template: "{{ x }}" },
      "chat_template",
      "chat_template is the operator's to choose, with --chat-template; a request cannot bring its own",
    ],
    [
      { chat_template_kwargs: { a: "x".repeat(70_000) } },
      "chat_template_kwargs",
      "chat_template_kwargs: expected at most 65536 characters and values in all, got an object",
    ],
    [
      { messages: [user("word ".repeat(4000))] },
      "messages",
      expect.stringMatching(/^this model takes at most 512 tokens, but messages has/),
    ],
  ])("%j", async (fields, param, message) => {
    expect(await chat(fields)).toMatchObject({ status: 400, json: { error: { param, message } } })
    expect(server.engine.requests).toEqual([])
  })
})

describe("thoughts", () => {
  const template = "{% if add_generation_prompt %}<think>{% endif %}</think>"

  it("are kept apart, however the answer is cut", () => {
    const answers = [
      ["<think>hm, <b>a</think>\n\nYes <think> no", true],
      ["hm</think>ok", false],
      ["no marks at all", true],
      ["<thin air", true],
      ["</think>", false],
      ["<think>never ends </thin", true],
      ["", true],
    ] as const
    const parted = (answer: string, opens: boolean) => {
      const begun = opens ? answer.replace(/^\s*<think>/, "") : answer
      if (opens && begun === answer) return { reasoning: "", content: answer }
      const at = begun.indexOf("</think>")
      return at < 0
        ? { reasoning: begun, content: "" }
        : { reasoning: begun.slice(0, at), content: begun.slice(at + 8) }
    }
    fc.assert(
      fc.property(fc.constantFrom(...answers), fc.array(fc.nat(6), { maxLength: 40 }), ([answer, opens], lengths) => {
        const split = new ReasoningSplit({ open: !opens })
        const total = { reasoning: "", content: "" }
        const add = (part: typeof total) => {
          total.reasoning += part.reasoning
          total.content += part.content
        }
        let at = 0
        for (const length of lengths) add(split.push(answer.slice(at, (at += length))))
        add(split.push(answer.slice(at)))
        add(split.flush())
        expect(total).toEqual(parted(answer, opens))
      }),
    )
  })

  it("are looked for only where the template marks them", () => {
    expect(reasoningMarks(null, "<think>")).toBeNull()
    expect(reasoningMarks("plain", "<think>")).toBeNull()
    expect(reasoningMarks(template, "x<think>\n")).toEqual({ open: true })
    expect(reasoningMarks(template, "<think>a</think>x")).toEqual({ open: false })
  })

  it("come in a field of their own, whole and streamed", async () => {
    await server.close()
    server = await startServer({ chatTemplate: "{{ messages[0].content }}<think>{# </think> #}" })
    server.engine.texts = ["I wonder", " a bit</th", "ink>It is", " Ann"]
    const { json } = await chat({})
    expect(json.choices[0].message).toMatchObject({ reasoning_content: "I wonder a bit", content: "It is Ann" })
    const response = await server.post("/v1/chat/completions", { messages: [user("Who?")], stream: true })
    const chunks = (await response.text()).split("\n\n").filter((event) => event.startsWith("data: {"))
    const deltas = chunks.map((chunk) => JSON.parse(chunk.slice(6)).choices[0].delta)
    expect(deltas.map((delta) => delta.reasoning_content ?? "").join("")).toBe("I wonder a bit")
    expect(deltas.map((delta) => delta.content ?? "").join("")).toBe("It is Ann")
  })
})

it("a model without a template says so", async () => {
  await server.close()
  server = await startServer({ chatTemplate: null })
  expect(await chat({})).toMatchObject({
    status: 400,
    json: { error: { message: expect.stringContaining("this model has no chat template") } },
  })
})
