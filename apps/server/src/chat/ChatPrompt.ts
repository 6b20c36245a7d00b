import type { ChatMessageInput } from "@uniprefill/openai/ChatMessages"
import type { ChatMessage } from "@uniprefill/tokenizer/ChatTemplate"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect } from "effect"
import { checkTextLength, promptTokens } from "../answers/PromptTokens.ts"
import { fromTokenizerError } from "../http/ApiError.ts"
import { Tenant } from "../http/Tenant.ts"
import { type ReasoningMarks, reasoningMarks } from "./ReasoningSplit.ts"

/** How messages become a prompt. */
export interface TemplateRequest {
  readonly messages: ReadonlyArray<ChatMessageInput>
  readonly add_generation_prompt?: boolean | null
  readonly continue_final_message?: boolean | null
  readonly add_special_tokens?: boolean | null
  readonly chat_template_kwargs?: Readonly<Record<string, unknown>> | null
  readonly documents?: ReadonlyArray<unknown> | null
  readonly reasoning_effort?: string | null
}

export interface ChatPrompt {
  readonly text: string
  readonly tokens: Int32Array
  /** Null where the template marks no thoughts. */
  readonly reasoning: ReasoningMarks | null
}

/** Messages → the template's text. Fails with 400 where the model has no template or it refuses them. */
export const renderMessages = Effect.fnUntraced(function* (request: TemplateRequest) {
  const tokenizer = yield* Tokenizer
  const caller = yield* Tenant
  const continueFinalMessage = request.continue_final_message ?? false
  const { chatTemplate } = tokenizer
  const knowsDeveloper = chatTemplate?.includes("developer") ?? false
  const messages = request.messages.map((message): ChatMessage => {
    const role = message.role === "developer" && !knowsDeveloper ? "system" : message.role
    return { ...message, role }
  })
  const { documents, reasoning_effort: effort } = request
  const chat = {
    messages,
    addGenerationPrompt: request.add_generation_prompt ?? true,
    continueFinalMessage,
    variables: {
      ...(documents === null || documents === undefined ? {} : { documents }),
      ...(effort === null || effort === undefined ? {} : { reasoning_effort: effort }),
      ...request.chat_template_kwargs,
    },
  }
  return yield* tokenizer
    .renderChat(chat, { caller })
    .pipe(Effect.mapError((error) => fromTokenizerError(error, "messages")))
})

const charactersOf = (messages: TemplateRequest["messages"]): number => {
  let characters = 0
  for (const { content } of messages) {
    if (typeof content === "string") characters += content.length
    else for (const { text } of content ?? []) characters += text.length
  }
  return characters
}

/** Messages → the tokens of their prompt, checked to fit with `maxTokens` more. */
export const chatPrompt = Effect.fnUntraced(function* (request: TemplateRequest, maxTokens: number | undefined) {
  const { chatTemplate } = yield* Tokenizer
  yield* checkTextLength(charactersOf(request.messages), "messages")
  const text = yield* renderMessages(request)
  const tokens = yield* promptTokens(text, "messages", maxTokens, request.add_special_tokens ?? false)
  return { text, tokens, reasoning: reasoningMarks(chatTemplate, text) } satisfies ChatPrompt
})
