import { readFileSync } from "node:fs"
import { CompletionRequest } from "@uniprefill/openai/CompletionRequest"
import { requestLimits } from "@uniprefill/openai/Limits"
import { expect, it } from "vitest"

const page = readFileSync(new URL("../../../docs/server.md", import.meta.url), "utf8")

it("the server's page has every request field, and no other", () => {
  const documented = [...page.matchAll(/^\| `(\w+)` +\| .*\S +\|$/gm)].map((match) => match[1])
  expect(new Set(documented)).toEqual(new Set(Object.keys(CompletionRequest.fields)))
})

it("the page names the limits in force", () => {
  const row = (field: string) => new RegExp(`^\\| \`${field}\` .*$`, "m").exec(page)?.[0]
  const said: Record<string, number> = {
    prompt: requestLimits.prompts,
    n: requestLimits.n,
    logit_bias: requestLimits.logitBias,
    logprobs: requestLimits.logprobs,
    stop: requestLimits.stopStrings,
    stop_token_ids: requestLimits.stopTokenIds,
    ttft_slo_ms: requestLimits.ttftSloMs,
    cache_salt: requestLimits.cacheSaltLength,
    request_id: requestLimits.requestIdLength,
  }
  for (const [field, limit] of Object.entries(said)) expect(row(field)).toContain(limit.toLocaleString("en-US"))
})
