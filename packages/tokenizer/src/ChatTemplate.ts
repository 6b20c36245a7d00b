import { Template } from "@huggingface/jinja"

/** A message as chat templates see it; other fields are passed on as they are. */
export interface ChatMessage {
  readonly role: string
  readonly content: string | ReadonlyArray<ChatContentPart> | null
  readonly [field: string]: unknown
}

export interface ChatContentPart {
  readonly type: "text"
  readonly text: string
}

export interface ChatRequest {
  readonly messages: ReadonlyArray<ChatMessage>
  /** Ends the text with the opening of an answer. */
  readonly addGenerationPrompt: boolean
  /** Ends the text with the last message's content, left open to be continued. */
  readonly continueFinalMessage: boolean
  /** More variables of the template. They do not replace the messages or the special tokens. */
  readonly variables: Readonly<Record<string, unknown>>
}

/** A template with what it is rendered with; sent to threads as it is. */
export interface ChatTemplateSource {
  readonly source: string
  /** Variables that every template may use: `bos_token`, `eos_token`, … */
  readonly specialTokens: Readonly<Record<string, string>>
}

export interface ChatRefusal {
  readonly _tag: "Refused"
  /** The request's field at fault, or null. */
  readonly field: string | null
  /** The template's own message where it has one. */
  readonly detail: string
}

/** Throws where the template does not parse. */
export const checkTemplate = (source: string): void => void templateOf(source)

/** Messages → prompt text, or why the template refuses them. */
export const renderChat = (template: ChatTemplateSource, request: ChatRequest): string | ChatRefusal => {
  const { messages, addGenerationPrompt, continueFinalMessage } = request
  if (!continueFinalMessage) return render(template, request, messages)
  if (addGenerationPrompt) {
    return refusal(
      "continue_final_message",
      "add_generation_prompt and continue_final_message exclude each other: set add_generation_prompt to false",
    )
  }
  const last = messages.at(-1)
  if (last === undefined) return refusal("messages", "there is no message to continue")
  const content = textOf(last)
  if (content.trim() === "") return continueEmpty(template, request, last)
  const text = render(template, request, messages)
  if (typeof text !== "string") return text
  const at = text.lastIndexOf(content.trim())
  if (at < 0) return refusal("messages", "the last message's content does not appear in what the template renders")
  // Blanks at the end stay where the template leaves them.
  const kept = content.trimStart()
  return text.slice(0, at + (text.startsWith(kept, at) ? kept.length : content.trim().length))
}

/** The last text of a message. */
const textOf = ({ content }: ChatMessage): string =>
  content === null ? "" : typeof content === "string" ? content : (content.at(-1)?.text ?? "")

/** An empty message is found by a mark in its place. */
const continueEmpty = (template: ChatTemplateSource, request: ChatRequest, last: ChatMessage) => {
  const text = render(template, request, [...request.messages.slice(0, -1), { ...last, content: mark }])
  if (typeof text !== "string") return text
  const at = text.lastIndexOf(mark)
  return at < 0 ? refusal("messages", "the template does not render the last message") : text.slice(0, at)
}

const mark = "\u{f8ff}the answer goes on here\u{f8ff}"

const render = (
  { source, specialTokens }: ChatTemplateSource,
  { variables, addGenerationPrompt }: ChatRequest,
  messages: ReadonlyArray<ChatMessage>,
): string | ChatRefusal => {
  try {
    const shown = iteratesParts(source) ? messages : messages.map(joinParts)
    return templateOf(source).render({
      ...variables,
      ...specialTokens,
      messages: shown,
      add_generation_prompt: addGenerationPrompt,
    })
  } catch (cause) {
    return refusal(null, cause instanceof Error ? cause.message : String(cause))
  }
}

/** Whether a template takes the parts of a message one by one; the others get them as one text, a line each. */
const iteratesParts = (source: string): boolean =>
  /\bfor\s+\w+\s+in\s+[\w.[\]'"]*content\b|\bcontent\b[^%}]*\bis\s+(?:not\s+)?(?:iterable|sequence)\b/.test(source)

const joinParts = (message: ChatMessage): ChatMessage =>
  typeof message.content === "string" || message.content === null
    ? message
    : { ...message, content: message.content.map(({ text }) => text).join("\n") }

const refusal = (field: string | null, detail: string): ChatRefusal => ({ _tag: "Refused", field, detail })

/** Templates are few and parsed once. */
const templates = new Map<string, Template>()

const templateOf = (source: string): Template => {
  let template = templates.get(source)
  if (template === undefined) {
    template = new Template(source)
    templates.set(source, template)
  }
  return template
}
