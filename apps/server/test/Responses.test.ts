import { afterEach, beforeEach, describe, expect, it, test } from "vitest"
import { collect, startServer, type TestServer } from "./TestServer.ts"

let server: TestServer
beforeEach(async () => {
  server = await startServer()
})
afterEach(() => server.close())

describe("/v1/responses", () => {
  it("answers the openai client, whole", async () => {
    const response = await server.client.responses.create({
      model: "needle",
      instructions: "Be brief.",
      input: "Who is it?",
      max_output_tokens: 3,
    })
    expect(response.output_text).toBe(" 0 1 2")
    expect(response).toMatchObject({
      object: "response",
      status: "incomplete",
      incomplete_details: { reason: "max_output_tokens" },
      usage: { output_tokens: 3 },
    })
    expect(response.id).toMatch(/^resp_/)
  })

  it("streams the events that the client expects, numbered in order", async () => {
    server.engine.finishReason = "stop"
    const stream = await server.client.responses.create({
      model: "needle",
      input: [
        { role: "user", content: [{ type: "input_text", text: "Who is it?" }] },
        { role: "assistant", content: "Ann." },
        { role: "user", content: "Sure?" },
      ],
      stream: true,
    })
    const events = await collect(stream)
    expect(events.map((event) => event.sequence_number)).toEqual(events.map((_, i) => i))
    expect(events.map((event) => event.type).filter((type, i, all) => type !== all[i - 1])).toEqual([
      "response.created",
      "response.in_progress",
      "response.output_item.added",
      "response.content_part.added",
      "response.output_text.delta",
      "response.output_text.done",
      "response.content_part.done",
      "response.output_item.done",
      "response.completed",
    ])
    const last = events.at(-1)!
    expect(last.type === "response.completed" && last.response.status).toBe("completed")
    expect(JSON.stringify(last)).toContain(" 0 1 2 3 4 5 6 7")
  })

  it("tells thoughts and what is said apart", async () => {
    await server.close()
    server = await startServer({ chatTemplate: "{{ messages[0].content }}<think>{# </think> #}" })
    server.engine.texts = ["hm", "</think>", "yes"]
    const whole = await server.client.responses.create({ model: "needle", input: "Who?" })
    expect(whole.output.map(({ type }) => type)).toEqual(["reasoning", "message"])
    expect(whole.output_text).toBe("yes")
    const events = await collect(await server.client.responses.create({ model: "needle", input: "Who?", stream: true }))
    const added = events.filter((event) => event.type === "response.output_item.added")
    expect(added.map((event) => [event.output_index, event.item.type])).toEqual([
      [0, "reasoning"],
      [1, "message"],
    ])
  })

  test.each([
    [{ previous_response_id: "resp_1" }, "previous_response_id"],
    [{ tools: [{ type: "web_search" }] }, "tools"],
    [{ text: { format: { type: "json_schema" } } }, "text.format"],
    [{ background: true }, "background"],
    [{ n: 2 }, "n"],
    [{ input: [{ type: "function_call_output", output: "x" }] }, "input[0].type"],
  ])("refuses %j by name", async (fields, param) => {
    const response = await server.post("/v1/responses", { input: "x", ...fields })
    expect([response.status, ((await response.json()) as any).error.param]).toEqual([400, param])
  })
})

describe("/v1/messages", () => {
  const ask = async (fields: object, headers: Record<string, string> = {}) => {
    const body = { model: "needle", max_tokens: 3, messages: [{ role: "user", content: "Who is it?" }], ...fields }
    const response = await server.post("/v1/messages", body, headers)
    return { status: response.status, text: await response.text() }
  }

  it("answers whole", async () => {
    const { text } = await ask({ system: [{ type: "text", text: "Be brief." }], stop_sequences: ["END"] })
    expect(JSON.parse(text)).toMatchObject({
      type: "message",
      role: "assistant",
      content: [{ type: "text", text: " 0 1 2" }],
      stop_reason: "max_tokens",
      usage: { output_tokens: 3, cache_read_input_tokens: 0 },
    })
    expect(server.engine.requests[0]).toMatchObject({ stop: ["END"], maxTokens: 3 })
  })

  it("streams blocks", async () => {
    server.engine.finishReason = "stop"
    server.engine.stopReason = "END"
    const { text } = await ask({ stream: true })
    const events = text.split("\n\n").filter((event) => event.startsWith("event: "))
    const data = events.map((event) => JSON.parse(event.split("\ndata: ")[1]!))
    expect(data.map(({ type }) => type)).toEqual([
      "message_start",
      "content_block_start",
      ...Array(3).fill("content_block_delta"),
      "content_block_stop",
      "message_delta",
      "message_stop",
    ])
    expect(data.map(({ delta }) => delta?.text ?? "").join("")).toBe(" 0 1 2")
    expect(data.at(-2).delta).toEqual({ stop_reason: "stop_sequence", stop_sequence: "END" })
    expect(text).not.toContain("[DONE]")
  })

  it("goes on with a last message of the assistant's", async () => {
    await ask({
      messages: [
        { role: "user", content: "Who?" },
        { role: "assistant", content: "It is" },
      ],
    })
    await server.post("/v1/chat/completions", {
      messages: [
        { role: "user", content: "Who?" },
        { role: "assistant", content: "It is" },
      ],
      add_generation_prompt: false,
      continue_final_message: true,
    })
    expect(server.engine.requests[0]!.prompt).toEqual(server.engine.requests[1]!.prompt)
  })

  it("has its own shape of errors, and its own header for the key", async () => {
    const refused = await ask({ tools: [{ name: "f" }] })
    expect([refused.status, JSON.parse(refused.text)]).toEqual([
      400,
      { type: "error", error: { type: "invalid_request_error", message: "tools is not supported by this server" } },
    ])
    server.engine.failAfter = 1
    expect((await ask({ stream: true })).text).toMatch(/event: error\ndata: .*"type":"api_error"/)
    await server.close()
    server = await startServer({ apiKeys: ["sesame"] })
    expect((await ask({})).status).toBe(401)
    expect((await ask({}, { "x-api-key": "sesame" })).status).toBe(200)
  })
})
