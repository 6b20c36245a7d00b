import { decodeCompletionRequest } from "@uniprefill/openai/CompletionRequest"
import { decodeChatRequest } from "@uniprefill/openai/ChatRequest"
import { decodeMessagesRequest } from "@uniprefill/openai/MessagesRequest"
import { decodeResponsesRequest } from "@uniprefill/openai/ResponsesRequest"
import { requestLimits } from "@uniprefill/openai/Limits"
import { promptsOf } from "@uniprefill/openai/Prompt"
import { Result } from "effect"
import fc from "fast-check"
import { describe, expect, it, test } from "vitest"

const decode = (body: unknown) => decodeCompletionRequest(body)
const accept = (fields: object) => {
  const result = decode({ model: "m", prompt: "x", ...fields })
  if (Result.isFailure(result)) throw new Error(`refused: ${result.failure.message}`)
  return result.success
}
const refuse = (body: unknown) => {
  const result = decode(body)
  if (Result.isSuccess(result)) throw new Error("accepted")
  return { param: result.failure.param, message: result.failure.message }
}

describe("refuses a bad field by name, with what was expected and what came", () => {
  test.each([
    [{ temperature: -0.1 }, "temperature", "temperature: expected a value between 0 and 100, got -0.1"],
    [{ temperature: "hot" }, "temperature", 'temperature: expected number, got "hot"'],
    [{ top_p: 0 }, "top_p", "top_p: expected a value above 0 and at most 1, as a 32-bit float too, got 0"],
    [{ top_p: 1.5 }, "top_p", "top_p: expected a value above 0 and at most 1, as a 32-bit float too, got 1.5"],
    [{ top_k: 1.5 }, "top_k", "top_k: expected an integer, got 1.5"],
    [{ min_p: 2 }, "min_p", "min_p: expected a value between 0 and 1, got 2"],
    [{ frequency_penalty: 3 }, "frequency_penalty", "frequency_penalty: expected a value between -2 and 2, got 3"],
    [{ presence_penalty: -3 }, "presence_penalty", "presence_penalty: expected a value between -2 and 2, got -3"],
    [
      { repetition_penalty: 0 },
      "repetition_penalty",
      "repetition_penalty: expected a value between 0.01 and 10, got 0",
    ],
    [{ n: 0 }, "n", "n: expected a value between 1 and 64, got 0"],
    [{ n: 65 }, "n", "n: expected a value between 1 and 64, got 65"],
    [{ max_tokens: -1 }, "max_tokens", "max_tokens: expected a value between 0 and 2147483647, got -1"],
    [{ logprobs: 21 }, "logprobs", "logprobs: expected a value between 0 and 20, got 21"],
    [{ logprobs: true }, "logprobs", "logprobs: expected number, got true"],
    [{ seed: 1.5 }, "seed", "seed: expected an integer of at most 64 bits, got 1.5"],
    [{ stream: "yes" }, "stream", 'stream: expected boolean, got "yes"'],
    [{ stop: 5 }, "stop", "stop: expected a string or a list of strings, got 5"],
    [{ stop: ["a", 5] }, "stop[1]", "stop[1]: expected a string, got 5"],
    [{ stop: "" }, "stop", 'stop: expected 1 to 256 characters, got ""'],
    [{ stop: ["x".repeat(300)] }, "stop[0]", `stop[0]: expected 1 to 256 characters, got "${"x".repeat(40)}…"`],
    [{ stop: Array(17).fill("a") }, "stop", "stop: expected at most 16 stop strings, got a list of 17"],
    [{ stop_token_ids: [1, -1] }, "stop_token_ids[1]", "stop_token_ids[1]: expected a token id, got -1"],
    [{ stop_token_ids: 7 }, "stop_token_ids", "stop_token_ids: expected a list of token ids, got 7"],
    [{ allowed_token_ids: ["a"] }, "allowed_token_ids[0]", 'allowed_token_ids[0]: expected a token id, got "a"'],
    [{ logit_bias: { "07": 1 } }, "logit_bias.07", "logit_bias.07: expected a token id as the key, got 1"],
    [{ logit_bias: { a: 1 } }, "logit_bias.a", "logit_bias.a: expected a token id as the key, got 1"],
    [{ logit_bias: { "5": 101 } }, "logit_bias.5", "logit_bias.5: expected a value between -100 and 100, got 101"],
    [{ uniprefill: { p: 1.1 } }, "uniprefill.p", "uniprefill.p: expected a value between 0 and 1, got 1.1"],
    [{ uniprefill: 1 }, "uniprefill", "uniprefill: expected object, got 1"],
    [{ request_id: "a b" }, "request_id", 'request_id: expected letters, digits and _ . : -, got "a b"'],
    [
      { prompt: {} },
      "prompt",
      "prompt: expected a string, a list of strings, a list of token ids or a list of such lists, got an object",
    ],
    [{ prompt: [] }, "prompt", "prompt is an empty list"],
    [{ priority: 0.5 }, "priority", "priority: expected an integer, got 0.5"],
    [
      { priority: 2 ** 31 },
      "priority",
      "priority: expected a value between -2147483648 and 2147483647, got 2147483648",
    ],
    [{ ttft_slo_ms: 0 }, "ttft_slo_ms", "ttft_slo_ms: expected a value between 1 and 86400000, got 0"],
    [{ ttft_slo_ms: "soon" }, "ttft_slo_ms", 'ttft_slo_ms: expected number, got "soon"'],
    [{ cache_salt: "" }, "cache_salt", 'cache_salt: expected 1 to 256 characters, got ""'],
    [
      { cache_salt: "x".repeat(257) },
      "cache_salt",
      `cache_salt: expected 1 to 256 characters, got "${"x".repeat(40)}…"`,
    ],
    [{ cache_salt: 7 }, "cache_salt", "cache_salt: expected string, got 7"],
    [{ prompt: [1, 2.5] }, "prompt[1]", "prompt[1]: expected a token id, got 2.5"],
    [{ prompt: ["a", 1] }, "prompt[1]", "prompt[1]: expected what the list's first element is, got 1"],
    [{ prompt: [[1], [2, "a"]] }, "prompt[1][1]", 'prompt[1][1]: expected a token id, got "a"'],
    [{ prompt: [[1], "a"] }, "prompt[1]", 'prompt[1]: expected what the list\'s first element is, got "a"'],
    [
      { prompt: ["a", [1]] },
      "prompt[1]",
      "prompt[1]: expected a string, as in the list's first element, got a list of 1",
    ],
    [{ prompt: Array(129).fill("a") }, "prompt", "prompt: expected at most 128 prompts, got a list of 129"],
    [{ prompt: Array(100).fill("a"), n: 2 }, "n", "100 prompts × n = 2 exceeds 128 answers in one request"],
    [
      { stream_options: { include_usage: true } },
      "stream_options",
      "stream_options is only allowed when stream is true",
    ],
    [{ min_tokens: 20 }, "min_tokens", "min_tokens = 20 exceeds max_tokens = 16"],
    [
      { prompt: ["a", "b"], uniprefill: { report: true } },
      "uniprefill.report",
      "uniprefill.report takes a single prompt, got 2",
    ],
  ])("%j", (fields, param, message) => {
    expect(refuse({ model: "m", prompt: "x", ...fields })).toEqual({ param, message })
  })

  it("bounds seeds to 64 bits, and says which it got", () => {
    for (const seed of [2n ** 64n, -(2n ** 63n) - 1n]) {
      expect(refuse({ prompt: "x", seed })).toEqual({
        param: "seed",
        message: `seed: expected an integer of at most 64 bits, got ${seed}`,
      })
    }
    expect(accept({ seed: 2n ** 64n - 1n }).value.seed).toBe(2n ** 64n - 1n)
  })

  it("takes one answer where the prompt's log-probabilities are echoed", () => {
    expect(refuse({ prompt: "x", echo: true, logprobs: 0, n: 2 }).param).toBe("n")
    expect(accept({ echo: true, logprobs: 0 }).value.logprobs).toBe(0)
  })

  it("names a body that is no object, and a missing prompt", () => {
    expect(refuse([1])).toEqual({ param: null, message: "request body: expected object, got a list of 1" })
    expect(refuse(null)).toEqual({ param: null, message: "request body: expected object, got null" })
    expect(refuse({ model: "m" })).toEqual({ param: "prompt", message: "prompt is required" })
  })

  type Decode = (body: unknown) => Result.Result<unknown, { readonly message: string }>
  it.each<[string, Decode, object, string]>([
    ["prompt", decodeCompletionRequest, { messages: [] }, "messages is /v1/chat/completions"],
    ["prompt", decodeCompletionRequest, { input: "x" }, "input is /v1/responses"],
    ["messages", decodeChatRequest, { prompt: "x" }, "prompt is /v1/completions"],
    ["messages", decodeMessagesRequest, { prompt: "x", max_tokens: 1 }, "prompt is /v1/completions"],
    ["input", decodeResponsesRequest, { messages: [], prompt: null }, "messages is /v1/chat/completions"],
  ])("a missing %s names the path of the input that came", (param, decodeOwn, body, place) => {
    const result = decodeOwn({ model: "m", ...body })
    expect(Result.isFailure(result) ? result.failure.message : "accepted").toBe(
      `${param} is required; the path that takes ${place}`,
    )
  })

  it("bounds the lists that hold token ids", () => {
    const bias = Object.fromEntries(Array.from({ length: requestLimits.logitBias + 1 }, (_, i) => [String(i), 0]))
    expect(refuse({ prompt: "x", logit_bias: bias }).message).toContain("at most 1024 token ids")
    const ids = Array.from({ length: requestLimits.stopTokenIds + 1 }, (_, i) => i)
    expect(refuse({ prompt: "x", stop_token_ids: ids }).message).toContain("at most 256 token ids")
  })
})

describe("refuses what would change the answer and is not supported", () => {
  test.each([
    ["suffix", " end"],
    ["response_format", { type: "json_object" }],
    ["tools", [{ type: "function" }]],
    ["guided_regex", "a*"],
    ["use_beam_search", true],
    ["prompt_logprobs", 1],
    ["truncate_prompt_tokens", 10],
  ])("%s", (name, value) => {
    expect(refuse({ prompt: "x", [name]: value })).toEqual({
      param: name,
      message: expect.stringMatching(new RegExp(`^${name} (is|are) not supported by this server`)),
    })
  })

  it("fields of other servers that would change the answer", () => {
    for (const fields of [{ typical_p: 0.9 }, { xtc_probability: 0.5 }, { no_repeat_ngram_size: 3 }, { regex: "a" }]) {
      expect(refuse({ prompt: "x", ...fields }).param).toBe(Object.keys(fields)[0])
    }
    expect(accept({ typical_p: 1, metadata: { a: "b" }, store: true }).unknownFields).toEqual([])
  })

  it("best_of above n", () => {
    expect(refuse({ prompt: "x", best_of: 3 }).param).toBe("best_of")
    expect(accept({ best_of: 1 }).value.best_of).toBe(1)
    expect(accept({ n: 3, best_of: 3 }).value.n).toBe(3)
  })

  it("but not where the value asks for nothing", () => {
    const body = {
      suffix: null,
      response_format: { type: "text" },
      tools: [],
      tool_choice: "none",
      prompt_logprobs: null,
    }
    expect(accept(body).unknownFields).toEqual([])
  })
})

describe("accepts", () => {
  it("null wherever a field may be left out", () => {
    const nulls = { temperature: null, n: null, stop: null, logprobs: null, stream_options: null, uniprefill: null }
    expect(accept(nulls).unknownFields).toEqual([])
  })

  it("fields it does not know, and lists them by path", () => {
    const { unknownFields } = accept({
      frobnicate: 1,
      stream: true,
      stream_options: { include_usage: true, other: 2 },
      uniprefill: { enabled: true, q: 1 },
    })
    expect(unknownFields).toEqual(["frobnicate", "stream_options.other", "uniprefill.q"])
  })

  test.each([
    ["a", ["a"]],
    [
      ["a", "b"],
      ["a", "b"],
    ],
    [[1, 2], [[1, 2]]],
    [
      [[1], [2, 3]],
      [[1], [2, 3]],
    ],
  ])("prompt %j", (prompt, prompts) => {
    expect(promptsOf(accept({ prompt }).value.prompt)).toEqual(prompts)
  })
})

test("any JSON is either accepted or refused with a message that names a field or the body", () => {
  const field = fc.constantFrom(
    "prompt",
    "n",
    "stop",
    "temperature",
    "logit_bias",
    "uniprefill",
    "stream_options",
    "tools",
    "__proto__",
    "constructor",
  )
  fc.assert(
    fc.property(fc.oneof(fc.jsonValue(), fc.dictionary(field, fc.jsonValue())), (body) => {
      const result = decode(body)
      if (Result.isSuccess(result)) return
      const { param, message } = result.failure
      expect(message).toContain(param === null ? "request body" : param)
      expect(message.length).toBeLessThan(600)
    }),
    { numRuns: 2000 },
  )
})

test("a prompt of 131,072 token ids is checked in one pass", () => {
  const ids = Array.from({ length: 131_072 }, (_, i) => i % 4096)
  let reads = 0
  const prompt = new Proxy(ids, {
    get: (list, key) => {
      if (key !== "length") reads++
      return Reflect.get(list, key) as unknown
    },
  })
  accept({ prompt })
  // Its first one tells of what kind all are.
  expect(reads).toBeGreaterThanOrEqual(ids.length)
  expect(reads).toBeLessThan(ids.length + 10)
})
