import { Schema } from "effect"
import { finiteBetween, floatAbove, intBetween, optional, Seed, stringUpTo, tokenIds } from "./Field.ts"
import { maxTokenId, requestLimits } from "./Limits.ts"

const Stop = Schema.declare(
  (input): input is string | ReadonlyArray<string> => typeof input === "string" || Array.isArray(input),
  { expected: "a string or a list of strings" },
).check(
  Schema.makeFilter((stop) => {
    const { stopStrings, stopLength } = requestLimits
    const strings: ReadonlyArray<unknown> = typeof stop === "string" ? [stop] : stop
    if (strings.length > stopStrings) return `Expected at most ${stopStrings} stop strings`
    for (const [i, text] of strings.entries()) {
      if (typeof text !== "string") return { path: [i], issue: "Expected a string" }
      if (text.length === 0 || text.length > stopLength) {
        const issue = `Expected 1 to ${stopLength} characters`
        return typeof stop === "string" ? issue : { path: [i], issue }
      }
    }
    return undefined
  }),
)

const LogitBias = Schema.Record(Schema.String, finiteBetween(-100, 100)).check(
  Schema.makeFilter((bias) => {
    const keys = Object.keys(bias)
    if (keys.length > requestLimits.logitBias) return `Expected at most ${requestLimits.logitBias} token ids`
    // One way to write each id, so that none comes twice.
    const bad = keys.find((key) => !/^(?:0|[1-9]\d{0,9})$/.test(key) || Number(key) > maxTokenId)
    return bad === undefined ? undefined : { path: [bad], issue: "Expected a token id as the key" }
  }),
)

const CacheSalt = Schema.String.check(
  Schema.makeFilter((salt) => {
    const { cacheSaltLength } = requestLimits
    return salt.length >= 1 && salt.length <= cacheSaltLength
      ? undefined
      : `Expected 1 to ${cacheSaltLength} characters`
  }),
)

/** Fields that completions and chat completions share. */
export const samplingFields = {
  model: optional(stringUpTo(requestLimits.modelLength)),
  temperature: optional(finiteBetween(0, 100)),
  top_p: optional(floatAbove(0, 1)),
  /** 0 and −1 are off. */
  top_k: optional(intBetween(-1, 0x7fff_ffff)),
  min_p: optional(finiteBetween(0, 1)),
  frequency_penalty: optional(finiteBetween(-2, 2)),
  presence_penalty: optional(finiteBetween(-2, 2)),
  repetition_penalty: optional(finiteBetween(0.01, 10)),
  logit_bias: optional(LogitBias),
  n: optional(intBetween(1, requestLimits.n)),
  seed: optional(Seed),
  stop: optional(Stop),
  stop_token_ids: optional(tokenIds(requestLimits.stopTokenIds)),
  include_stop_str_in_output: optional(Schema.Boolean),
  ignore_eos: optional(Schema.Boolean),
  min_tokens: optional(intBetween(0, 0x7fff_ffff)),
  skip_special_tokens: optional(Schema.Boolean),
  allowed_token_ids: optional(tokenIds(requestLimits.allowedTokenIds)),
  stream: optional(Schema.Boolean),
  stream_options: optional(
    Schema.Struct({
      include_usage: optional(Schema.Boolean),
      /** The usage so far in every event. */
      continuous_usage_stats: optional(Schema.Boolean),
    }),
  ),
  /** Lower is sooner, under a policy that looks at it. */
  priority: optional(intBetween(-0x8000_0000, 0x7fff_ffff)),
  /** When the first token is due, from the request's arrival; for policies that look at it. A field of this server. */
  ttft_slo_ms: optional(finiteBetween(1, requestLimits.ttftSloMs)),
  /** Prompts share what was computed of equal beginnings only where they have the same salt. */
  cache_salt: optional(CacheSalt),
  request_id: optional(
    stringUpTo(requestLimits.requestIdLength).check(
      Schema.isPattern(/^[\w.:-]+$/, { message: "Expected letters, digits and _ . : -" }),
    ),
  ),
  user: optional(stringUpTo(requestLimits.userLength)),
  /** Token dropping for this request; a field of this server. */
  uniprefill: optional(
    Schema.Struct({
      /** False serves the request dense. */
      enabled: optional(Schema.Boolean),
      /** Share of attention mass to keep at every drop layer; may only raise the model's own, unless the operator allows less. */
      p: optional(finiteBetween(0, 1)),
      /** Adds the kept ratios to the response. */
      report: optional(Schema.Boolean),
    }),
  ),
}

export type SamplingFields = Schema.Struct<typeof samplingFields>["Type"]
