import type { GenerateEvent } from "@uniprefill/engine/Engine"
import type { CompletionLogprobs } from "@uniprefill/openai/Completion"
import type { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"

type Entries = Extract<GenerateEvent, { _tag: "Output" }>["logprobs"]

/** Log-probabilities of one choice in the shape of completions; keeps the place in the text between events. */
export class LogprobsFormat {
  readonly #tokenizer: Pick<Tokenizer["Service"], "tokenText">
  #offset = 0

  constructor(tokenizer: Pick<Tokenizer["Service"], "tokenText">) {
    this.#tokenizer = tokenizer
  }

  /** One entry per token: the sampled one first, then the most likely ones, which may name it again. */
  format(entries: Entries): CompletionLogprobs {
    const tokens: Array<string> = []
    const logprobs: Array<number> = []
    const top: Array<Record<string, number>> = []
    const offsets: Array<number> = []
    for (const entry of entries) {
      const [sampled, logprob] = entry[0]!
      const text = this.#tokenizer.tokenText(sampled)
      tokens.push(text)
      logprobs.push(finite(logprob))
      // Half characters share a text: of those the most likely stays. No prototype, since `__proto__` may be a token.
      const byText: Record<string, number> = Object.create(null)
      for (const [token, value] of entry) {
        const key = this.#tokenizer.tokenText(token)
        byText[key] = Math.max(byText[key] ?? lowest, finite(value))
      }
      top.push(byText)
      offsets.push(this.#offset)
      this.#offset += text.length
    }
    return { tokens, token_logprobs: logprobs, top_logprobs: top, text_offset: offsets }
  }
}

/** JSON has no −∞; this is what other servers write in its place. */
const lowest = -9999

const finite = (logprob: number): number => Math.max(lowest, logprob)
