import { Result, Schema } from "effect"
import { type ChatMessageInput, checkContent, textPartsOf } from "./ChatMessages.ts"
import { finiteBetween, floatAbove, intBetween, isList, optional, stringUpTo } from "./Field.ts"
import { type Decoded, decodeRequest, InvalidRequest } from "./InvalidRequest.ts"
import { requestLimits } from "./Limits.ts"
import { samplingFields } from "./SamplingFields.ts"

interface Message {
  readonly role: "user" | "assistant"
  readonly content: string | ReadonlyArray<unknown>
}

/** Blocks of thoughts in earlier answers are not the model's to read again. */
const isThought = (block: unknown): boolean =>
  typeof block === "object" && block !== null && String((block as { type?: unknown }).type).endsWith("thinking")

const said = (content: unknown): unknown =>
  Array.isArray(content) ? content.filter((block) => !isThought(block)) : content

const Messages = Schema.declare((input): input is ReadonlyArray<Message> => Array.isArray(input), {
  expected: "a list of messages",
}).check(
  Schema.makeFilter((messages) => {
    if (messages.length === 0) return "Expected at least one message"
    if (messages.length > requestLimits.messages) return `Expected at most ${requestLimits.messages} messages`
    for (let i = 0; i < messages.length; i++) {
      const message: unknown = messages[i]
      if (typeof message !== "object" || message === null) return { path: [i], issue: "Expected object" }
      const { role, content } = message as Record<string, unknown>
      if (role !== "user" && role !== "assistant") return { path: [i, "role"], issue: "Expected user or assistant" }
      const fault = checkContent(said(content), [i, "content"])
      if (fault !== undefined) return fault
    }
    return undefined
  }),
)

const System = Schema.declare(
  (input): input is string | ReadonlyArray<unknown> => typeof input === "string" || isList(input),
  { expected: "a string or a list of blocks" },
).check(Schema.makeFilter((system) => checkContent(system, [])))

const {
  model,
  top_k: topK,
  stream,
  cache_salt: cacheSalt,
  priority,
  ttft_slo_ms: ttftSloMs,
  uniprefill,
} = samplingFields

/** `POST /v1/messages`, as far as text goes. */
export const MessagesRequest = Schema.Struct({
  model,
  messages: Messages,
  system: optional(System),
  max_tokens: intBetween(1, 0x7fff_ffff),
  stop_sequences: optional(
    Schema.Array(stringUpTo(requestLimits.stopLength)).check(Schema.isMaxLength(requestLimits.stopStrings)),
  ),
  temperature: optional(finiteBetween(0, 1)),
  top_p: optional(floatAbove(0, 1)),
  top_k: topK,
  stream,
  metadata: optional(Schema.Struct({ user_id: optional(stringUpTo(requestLimits.userLength)) })),
  cache_salt: cacheSalt,
  priority,
  ttft_slo_ms: ttftSloMs,
  uniprefill,
})
export type MessagesRequest = typeof MessagesRequest.Type

const decode = decodeRequest(MessagesRequest, "messages")

export const decodeMessagesRequest = (body: unknown): Result.Result<Decoded<MessagesRequest>, InvalidRequest> => {
  const decoded = decode(body)
  if (Result.isFailure(decoded)) return decoded
  const { tools, tool_choice: toolChoice, thinking, output_format: outputFormat } = body as Record<string, unknown>
  const refuse = (param: string) =>
    Result.fail(new InvalidRequest({ param, message: `${param} is not supported by this server` }))
  if (Array.isArray(tools) ? tools.length > 0 : tools !== undefined && tools !== null) return refuse("tools")
  if (toolChoice !== undefined && toolChoice !== null) return refuse("tool_choice")
  if (outputFormat !== undefined && outputFormat !== null) return refuse("output_format")
  if ((thinking as { type?: unknown } | null | undefined)?.type === "enabled") return refuse("thinking")
  const empty = decoded.success.value.stop_sequences?.indexOf("") ?? -1
  if (empty >= 0) {
    const param = `stop_sequences[${empty}]`
    return Result.fail(new InvalidRequest({ param, message: `${param}: expected some text, got ""` }))
  }
  const unknown = decoded.success.unknownFields.filter(
    (name) => !["tools", "tool_choice", "thinking", "output_format", "service_tier"].includes(name),
  )
  return Result.succeed({ value: decoded.success.value, unknownFields: unknown })
}

/** The conversation of a request. */
export const messagesOf = ({ system, messages }: MessagesRequest): ReadonlyArray<ChatMessageInput> => {
  const first: ReadonlyArray<ChatMessageInput> =
    system === null || system === undefined ? [] : [{ role: "system", content: textPartsOf(system) }]
  const rest = messages.map(({ role, content }) => ({
    role,
    content: textPartsOf(said(content) as string | ReadonlyArray<unknown>),
  }))
  return [...first, ...rest]
}

/** Error types of this API by status. */
const errorTypes: Readonly<Record<number, string>> = {
  400: "invalid_request_error",
  401: "authentication_error",
  404: "not_found_error",
  413: "request_too_large",
  429: "rate_limit_error",
  500: "api_error",
  503: "overloaded_error",
}

/** An error as this API says it. */
export const messagesErrorBody = (status: number, message: string) => ({
  type: "error" as const,
  error: { type: errorTypes[status] ?? (status < 500 ? "invalid_request_error" : "api_error"), message },
})
