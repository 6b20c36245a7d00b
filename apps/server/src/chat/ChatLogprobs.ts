import type { GenerateEvent } from "@uniprefill/engine/Engine"
import type { ChatLogprobs, TokenLogprob } from "@uniprefill/openai/ChatCompletion"
import type { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { finite } from "../completions/CompletionLogprobs.ts"

type Entries = Extract<GenerateEvent, { readonly _tag: "Output" }>["logprobs"]

/** Log-probabilities of an answer's tokens in the shape of chat completions; `top` alternatives each. */
export const chatLogprobs = (
  entries: Entries,
  top: number,
  tokenizer: Pick<Tokenizer["Service"], "tokenText" | "tokenBytes">,
): ChatLogprobs => {
  const of = ([token, logprob]: readonly [number, number]) => ({
    token: tokenizer.tokenText(token),
    logprob: finite(logprob),
    bytes: [...tokenizer.tokenBytes(token)],
  })
  const content = entries.map((entry): TokenLogprob => ({
    ...of(entry[0]!),
    top_logprobs: entry.slice(1, 1 + top).map(of),
  }))
  return { content, refusal: null }
}
