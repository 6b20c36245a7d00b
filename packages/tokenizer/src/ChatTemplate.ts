import { Template } from "@huggingface/jinja"
import { Effect } from "effect"
import { TokenizerError } from "./TokenizerError.ts"

/** A message as chat templates see it; other fields are passed on as they are. */
export interface ChatMessage {
  readonly role: string
  readonly content: string
  readonly [field: string]: unknown
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

export interface ChatTemplate {
  /** Fails with `ChatTemplate` when the template refuses the messages; the detail is the template's own message. */
  readonly render: (request: ChatRequest) => Effect.Effect<string, TokenizerError>
}

/** Compiles a template. `specialTokens` are the variables that every template may use: `bos_token`, `eos_token`, … */
export const compileChatTemplate = (
  file: string,
  source: string,
  specialTokens: Readonly<Record<string, string>>,
): Effect.Effect<ChatTemplate, TokenizerError> =>
  Effect.try({
    try: () => new Template(source),
    catch: (cause) =>
      new TokenizerError({ reason: "Unsupported", file, field: "chat_template", detail: messageOf(cause) }),
  }).pipe(Effect.map((template) => ({ render: (request) => render(template, file, specialTokens, request) })))

const render = (
  template: Template,
  file: string,
  specialTokens: Readonly<Record<string, string>>,
  request: ChatRequest,
): Effect.Effect<string, TokenizerError> => {
  const { messages, addGenerationPrompt, continueFinalMessage, variables } = request
  const refuse = (field: string | null, detail: string) =>
    new TokenizerError({ reason: "ChatTemplate", file, field, detail })
  if (addGenerationPrompt && continueFinalMessage) {
    return Effect.fail(
      refuse("continue_final_message", "add_generation_prompt and continue_final_message exclude each other"),
    )
  }
  return Effect.try({
    try: () =>
      template.render({ ...variables, ...specialTokens, messages, add_generation_prompt: addGenerationPrompt }),
    catch: (cause) => refuse(null, messageOf(cause)),
  }).pipe(
    Effect.flatMap((text) => {
      if (!continueFinalMessage) return Effect.succeed(text)
      const content = messages.at(-1)?.content.trim() ?? ""
      const at = content === "" ? -1 : text.lastIndexOf(content)
      return at < 0
        ? Effect.fail(refuse("messages", "the last message's content does not appear in what the template renders"))
        : Effect.succeed(text.slice(0, at + content.length))
    }),
  )
}

const messageOf = (cause: unknown): string => (cause instanceof Error ? cause.message : String(cause))
