import { readFileSync } from "node:fs"
import { type Answered, serveThread } from "@uniprefill/threads/serveThread"
import { type ChatRequest, type ChatTemplateSource, renderChat } from "./ChatTemplate.ts"
import { type Encoder, makeEncoder } from "./Encoder.ts"

/** What a tokenizer's thread is made of; it reads tokenizer.json itself, at its first text. */
export interface TokenizerThreadData {
  /** Path of tokenizer.json. */
  readonly path: string
  readonly template: ChatTemplateSource | null
}

export type TokenizerJob =
  | { readonly _tag: "Encode"; readonly text: string; readonly addSpecialTokens: boolean }
  | { readonly _tag: "Render"; readonly chat: ChatRequest }

export type TokenizerAnswer =
  | { readonly _tag: "Tokens"; readonly tokens: Int32Array }
  | { readonly _tag: "Text"; readonly text: string }
  /** The template refuses the messages. */
  | { readonly _tag: "Refused"; readonly field: string | null; readonly detail: string }

/** Entry of the threads. */
export const serveTokenizer = (): void =>
  serveThread<TokenizerThreadData, TokenizerJob, TokenizerAnswer>(({ path, template }) => {
    let encoder: Encoder | undefined
    return (job): Answered<TokenizerAnswer> => {
      if (job._tag === "Encode") {
        encoder ??= makeEncoder(JSON.parse(readFileSync(path, "utf8")) as object)
        const tokens = encoder.encode(job.text, job.addSpecialTokens)
        return { value: { _tag: "Tokens", tokens }, transfer: [tokens.buffer as ArrayBuffer] }
      }
      const rendered = renderChat(template!, job.chat)
      return { value: typeof rendered === "string" ? { _tag: "Text", text: rendered } : rendered, transfer: [] }
    }
  })
