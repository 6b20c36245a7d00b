import { Result, Schema } from "effect"
import { type ChatMessageInput, checkContent, textPartsOf } from "./ChatMessages.ts"
import { intBetween, optional, stringUpTo } from "./Field.ts"
import { type Decoded, decodeRequest, InvalidRequest } from "./InvalidRequest.ts"
import { requestLimits } from "./Limits.ts"
import { samplingFields } from "./SamplingFields.ts"
import { findUnsupported, isWorthALine } from "./Unsupported.ts"

/** A message of a response's input; also without its `type`, as clients may leave it out. */
interface InputItem {
  readonly type?: "message"
  readonly role: ChatMessageInput["role"]
  readonly content: string | ReadonlyArray<unknown>
}

const roles: ReadonlySet<unknown> = new Set(["system", "developer", "user", "assistant"])

const checkItem = (item: unknown, at: number) => {
  if (typeof item !== "object" || item === null) return { path: [at], issue: "Expected object" }
  const { type = "message", role, content } = item as Record<string, unknown>
  // Thoughts of earlier answers are not the model's to read again.
  if (type === "reasoning") return undefined
  if (type !== "message") {
    return { path: [at, "type"], issue: 'Expected "message": tools and references to stored items are not supported' }
  }
  if (!roles.has(role)) return { path: [at, "role"], issue: `Expected one of ${[...roles].join(", ")}` }
  return checkContent(content, [at, "content"])
}

const Input = Schema.declare(
  (input): input is string | ReadonlyArray<InputItem> => typeof input === "string" || Array.isArray(input),
  { expected: "a string or a list of messages" },
).check(
  Schema.makeFilter((input) => {
    if (typeof input === "string") return undefined
    if (input.length === 0) return "Expected at least one message"
    if (input.length > requestLimits.messages) return `Expected at most ${requestLimits.messages} messages`
    for (let i = 0; i < input.length; i++) {
      const fault = checkItem(input[i], i)
      if (fault !== undefined) return fault
    }
    return undefined
  }),
)

/** `POST /v1/responses`, as far as text goes: nothing is stored, there are no tools. */
export const ResponsesRequest = Schema.Struct({
  ...samplingFields,
  input: Input,
  instructions: optional(Schema.String),
  max_output_tokens: optional(intBetween(1, 0x7fff_ffff)),
  metadata: optional(Schema.Record(Schema.String, stringUpTo(512))),
  text: optional(Schema.Struct({ format: optional(Schema.Struct({ type: Schema.Literal("text") })) })),
  reasoning: optional(
    Schema.Struct({ effort: optional(Schema.Literals(["none", "minimal", "low", "medium", "high", "xhigh"])) }),
  ),
})
export type ResponsesRequest = typeof ResponsesRequest.Type

const decode = decodeRequest(ResponsesRequest, "input")

/** Fields of the API that ask for what is not there, with the values that ask for nothing. */
const refused: Readonly<Record<string, readonly [nothing: ReadonlyArray<unknown>, why: string]>> = {
  previous_response_id: [[], "responses are not stored: send the whole conversation as input"],
  conversation: [[], "conversations are not stored: send the whole conversation as input"],
  background: [[false], "responses are not stored, so none can be made in the background"],
  prompt: [[], "prompt templates are not supported by this server"],
  max_tool_calls: [[], "tools are not supported by this server"],
  top_logprobs: [[0], "log-probabilities are not supported here: use /v1/chat/completions"],
}

/** Accepted without effect. */
const withoutEffect: ReadonlySet<string> = new Set([
  "include",
  "text.verbosity",
  "reasoning.summary",
  "stream_options.include_obfuscation",
])

export const decodeResponsesRequest = (body: unknown): Result.Result<Decoded<ResponsesRequest>, InvalidRequest> => {
  const decoded = decode(body)
  if (Result.isFailure(decoded)) return decoded
  const unsupported = findUnsupported(body as object)
  if (unsupported !== undefined) return Result.fail(unsupported)
  for (const [name, value] of Object.entries(body as object)) {
    const rule = Object.hasOwn(refused, name) ? refused[name] : undefined
    if (rule !== undefined && value !== null && !rule[0].includes(value)) {
      return Result.fail(new InvalidRequest({ param: name, message: `${name}: ${rule[1]}` }))
    }
  }
  const { value, unknownFields } = decoded.success
  if ((value.n ?? 1) !== 1) {
    return Result.fail(new InvalidRequest({ param: "n", message: "a response has one answer: leave n out" }))
  }
  const known = (name: string) => isWorthALine(name) && !Object.hasOwn(refused, name) && !withoutEffect.has(name)
  return Result.succeed({ value, unknownFields: unknownFields.filter(known) })
}

/** The conversation of a request. */
export const messagesOfResponse = ({ input, instructions }: ResponsesRequest): ReadonlyArray<ChatMessageInput> => {
  const system: ReadonlyArray<ChatMessageInput> =
    typeof instructions === "string" ? [{ role: "system", content: instructions }] : []
  if (typeof input === "string") return [...system, { role: "user", content: input }]
  const items = input.filter((item) => (item.type ?? "message") === "message")
  return [...system, ...items.map(({ role, content }) => ({ role, content: textPartsOf(content) }))]
}
