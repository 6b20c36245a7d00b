import { readFileSync } from "node:fs"
import { ChatRequest } from "@uniprefill/openai/ChatRequest"
import { CompletionRequest } from "@uniprefill/openai/CompletionRequest"
import { requestLimits } from "@uniprefill/openai/Limits"
import { defaultMaxTextLength, defaultMaxWaiting } from "@uniprefill/tokenizer/Tokenizer"
import { engineDefaults } from "@uniprefill/engine/EngineLayer"
import { servingDefaults } from "@uniprefill/scheduler/ServingDefaults"
import { serverLimits } from "uniprefill/http/ServerLimits"
import { describe, expect, it } from "vitest"

const page = readFileSync(new URL("../../../docs/server.md", import.meta.url), "utf8")

/** First column → row, of the tables under a heading. */
const tableUnder = (heading: string): ReadonlyMap<string, string> => {
  const section = page.split(`\n## ${heading}\n`)[1]!.split("\n## ")[0]!
  const rows = [...section.matchAll(/^\| (.*?) +\| (.*\S) +\|$/gm)]
  return new Map(rows.map(([, first, rest]) => [first!.replaceAll("`", ""), rest!]))
}

const fieldsUnder = (heading: string) => {
  const table = tableUnder(heading)
  return new Set([...table.keys()].filter((name) => /^\w+$/.test(name) && name !== "field"))
}

describe("the server's page", () => {
  it("has every field of completions, and no other", () => {
    expect(fieldsUnder("Fields of `POST /v1/completions`")).toEqual(new Set(Object.keys(CompletionRequest.fields)))
  })

  it("has every field that only chats have", () => {
    const own = Object.keys(ChatRequest.fields).filter((name) => !Object.hasOwn(CompletionRequest.fields, name))
    const documented = fieldsUnder("Fields of `POST /v1/chat/completions`")
    for (const name of own) expect(documented).toContain(name)
    for (const name of documented) expect(Object.keys(ChatRequest.fields)).toContain(name)
  })

  it("names the limits of fields in force", () => {
    const rows = tableUnder("Fields of `POST /v1/completions`")
    const said: Record<string, number> = {
      prompt: requestLimits.prompts,
      n: requestLimits.n,
      logit_bias: requestLimits.logitBias,
      logprobs: requestLimits.logprobs,
      stop: requestLimits.stopStrings,
      stop_token_ids: requestLimits.stopTokenIds,
      allowed_token_ids: requestLimits.allowedTokenIds,
      ttft_slo_ms: requestLimits.ttftSloMs,
      cache_salt: requestLimits.cacheSaltLength,
      request_id: requestLimits.requestIdLength,
    }
    for (const [field, limit] of Object.entries(said)) expect(rows.get(field)).toContain(limit.toLocaleString("en-US"))
    const chat = tableUnder("Fields of `POST /v1/chat/completions`")
    expect(chat.get("messages")).toContain(requestLimits.messages.toLocaleString("en-US"))
    expect(chat.get("chat_template_kwargs")).toContain(requestLimits.templateVariables.toLocaleString("en-US"))
  })

  it("names every limit of the server with its value", () => {
    const section = page.split("\n## Limits\n")[1]!.split("\n## ")[0]!
    const said: Record<string, string> = {
      bodyBytes: `${serverLimits.bodyBytes / 1024 / 1024} MiB`,
      bodyBytesInFlight: `${serverLimits.bodyBytesInFlight / 1024 / 1024} MiB together`,
      jsonDepth: String(serverLimits.jsonDepth),
      jsonValues: serverLimits.jsonValues.toLocaleString("en-US"),
      headers: String(serverLimits.headers),
      headerBytes: `${serverLimits.headerBytes / 1024} KiB`,
      connections: serverLimits.connections.toLocaleString("en-US"),
      headersTimeoutMs: `${serverLimits.headersTimeoutMs / 1000} s`,
      requestTimeoutMs: `${serverLimits.requestTimeoutMs / 1000} s`,
      keepAliveMs: `${serverLimits.keepAliveMs / 1000} s`,
      echoedCharacters: serverLimits.echoedCharacters.toLocaleString("en-US"),
      maxTextLength: defaultMaxTextLength.toLocaleString("en-US"),
      maxWaitingTexts: `${defaultMaxWaiting}, then 429`,
      detokenized: requestLimits.detokenizedTokens.toLocaleString("en-US"),
      answers: `${requestLimits.prompts}; ${requestLimits.n}; ${requestLimits.choices}`,
      maxWaiting: servingDefaults.maxWaiting.toLocaleString("en-US"),
      maxWaitingTokens: servingDefaults.maxWaitingTokens.toLocaleString("en-US"),
      unread: `${engineDefaults.maxUnreadTokens.toLocaleString("en-US")}, then the answer ends`,
      stop: `${requestLimits.stopStrings}; ${requestLimits.stopLength}`,
    }
    for (const text of Object.values(said)) expect(section).toContain(text)
    // Not a client's to notice: how long a refused body is read on, names that are logged, and the comments of streams.
    const unsaid = ["discardMs", "unknownFields", "commentMs"]
    const known = new Set([...Object.keys(said), ...unsaid])
    expect(Object.keys(serverLimits).filter((name) => !known.has(name))).toEqual([])
  })
})
