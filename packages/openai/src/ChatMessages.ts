import { Schema } from "effect"
import { requestLimits } from "./Limits.ts"

/** A message of a conversation as it is checked at the border; its content is text, as one piece or in parts. */
export interface ChatMessageInput {
  readonly role: "system" | "developer" | "user" | "assistant"
  readonly content: string | ReadonlyArray<ChatTextPart> | null
  readonly name?: string
  /** Thoughts of an earlier answer, for templates that want them back. */
  readonly reasoning_content?: string
}

export interface ChatTextPart {
  readonly type: "text"
  readonly text: string
}

const roles = ["system", "developer", "user", "assistant"]

/** How parts of text are called by the APIs that have them. */
const textParts: ReadonlySet<unknown> = new Set(["text", "input_text", "output_text"])

type Fault = { readonly path: ReadonlyArray<string | number>; readonly issue: string }

const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value) && !(value instanceof Int32Array)

const checkPart = (part: unknown, path: ReadonlyArray<string | number>): Fault | undefined => {
  if (typeof part === "string") return undefined
  if (!isObject(part)) return { path, issue: "Expected a part of text" }
  if (part.type === "refusal" && typeof part.refusal === "string") return undefined
  if (!textParts.has(part.type))
    return { path: [...path, "type"], issue: 'Expected "text": this model reads text only' }
  return typeof part.text === "string" ? undefined : { path: [...path, "text"], issue: "Expected string" }
}

/** The first fault of a message's content. */
export const checkContent = (content: unknown, path: ReadonlyArray<string | number>): Fault | undefined => {
  if (typeof content === "string") return undefined
  if (!Array.isArray(content)) return { path, issue: "Expected a string or a list of parts" }
  for (const [i, part] of content.entries()) {
    const fault = checkPart(part, [...path, i])
    if (fault !== undefined) return fault
  }
  return undefined
}

const checkMessage = (message: unknown, at: number): Fault | undefined => {
  if (!isObject(message)) return { path: [at], issue: "Expected object" }
  const { role, content, name, reasoning_content: reasoning } = message
  if (role === "tool" || role === "function") {
    return { path: [at, "role"], issue: "Expected system, developer, user or assistant: tools are not supported" }
  }
  if (!roles.includes(role as string)) return { path: [at, "role"], issue: `Expected one of ${roles.join(", ")}` }
  for (const field of ["tool_calls", "function_call", "audio"]) {
    const value = message[field]
    const isNothing = value === undefined || value === null || (Array.isArray(value) && value.length === 0)
    if (!isNothing) return { path: [at, field], issue: "Expected nothing: it is not supported by this server" }
  }
  for (const [field, value] of Object.entries({ name, reasoning_content: reasoning })) {
    if (value !== undefined && value !== null && typeof value !== "string") {
      return { path: [at, field], issue: "Expected string" }
    }
  }
  if (content === null || content === undefined) {
    return role === "assistant" ? undefined : { path: [at, "content"], issue: "Expected a string or a list of parts" }
  }
  return checkContent(content, [at, "content"])
}

export const ChatMessages = Schema.declare((input): input is ReadonlyArray<ChatMessageInput> => Array.isArray(input), {
  expected: "a list of messages",
}).check(
  Schema.makeFilter((messages) => {
    if (messages.length === 0) return "Expected at least one message"
    if (messages.length > requestLimits.messages) return `Expected at most ${requestLimits.messages} messages`
    for (let i = 0; i < messages.length; i++) {
      const fault = checkMessage(messages[i], i)
      if (fault !== undefined) return fault
    }
    return undefined
  }),
)

/** Parts of text under one name. */
export const textPartsOf = (content: string | ReadonlyArray<unknown>): string | ReadonlyArray<ChatTextPart> =>
  typeof content === "string"
    ? content
    : content.map((part) => {
        if (typeof part === "string") return { type: "text", text: part }
        const { text, refusal } = part as { readonly text?: string; readonly refusal?: string }
        return { type: "text", text: text ?? refusal ?? "" }
      })

/** Messages with their content's parts under one name. */
export const normalMessages = (messages: ReadonlyArray<ChatMessageInput>): ReadonlyArray<ChatMessageInput> =>
  messages.map((message) =>
    typeof message.content === "string" || message.content === null || message.content === undefined
      ? { ...message, content: message.content ?? null }
      : { ...message, content: textPartsOf(message.content) },
  )
