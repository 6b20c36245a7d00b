import type { CompletionLogprobs } from "@uniprefill/openai/Completion"
import type { Detokenizer } from "@uniprefill/tokenizer/Detokenizer"
import type { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"

/** A token and the most likely ones in its place; none for a prompt's first token. */
type Entry = ReadonlyArray<readonly [token: number, logprob: number]>

interface Placed {
  readonly token: number
  readonly entry: Entry
  readonly offset: number
}

/**
 * Log-probabilities of one choice in the shape of completions. `text_offset` is where a token's text begins in the choice's
 * text, so a token is told when its place in the text is certain: one whose characters are incomplete, or held back as the
 * possible start of a stop string, waits, and one whose text never came is at the text's end.
 */
export class LogprobsFormat {
  readonly #tokenizer: Pick<Tokenizer["Service"], "tokenText">
  readonly #detokenizer: Detokenizer
  readonly #placed: Array<Placed> = []
  /** Text of all tokens so far. */
  #offset: number

  /** `detokenizer` gives the choice's text as the engine does; `offset` is the length of the text before it. */
  constructor(tokenizer: Pick<Tokenizer["Service"], "tokenText">, detokenizer: Detokenizer, offset: number) {
    this.#tokenizer = tokenizer
    this.#detokenizer = detokenizer
    this.#offset = offset
  }

  push(tokens: ReadonlyArray<number>, entries: ReadonlyArray<Entry>): void {
    for (const [i, token] of tokens.entries()) {
      const text = this.#detokenizer.push(token)
      const own = this.#tokenizer.tokenText(token)
      // Bytes before it that are no character come with it.
      const before = text.endsWith(own) ? text.length - own.length : 0
      this.#placed.push({ token, entry: entries[i]!, offset: this.#offset + before })
      this.#offset += text.length
    }
  }

  /** Tokens whose text begins within the first `length` characters; with `ended`, all that are left. Null for none. */
  take(length: number, ended: boolean): CompletionLogprobs | null {
    let count = ended ? this.#placed.length : 0
    while (count < this.#placed.length && this.#placed[count]!.offset < length) count++
    if (count === 0) return null
    return this.#format(this.#placed.splice(0, count), length)
  }

  #format(placed: ReadonlyArray<Placed>, length: number): CompletionLogprobs {
    return {
      tokens: placed.map(({ token }) => this.#tokenizer.tokenText(token)),
      token_logprobs: placed.map(({ entry }) => (entry.length === 0 ? null : finite(entry[0]![1]))),
      top_logprobs: placed.map(({ entry }) => (entry.length === 0 ? null : this.#byText(entry))),
      text_offset: placed.map(({ offset }) => Math.min(offset, length)),
    }
  }

  /** Half characters share a text: of those the most likely stays. No prototype, since `__proto__` may be a token. */
  #byText(entry: Entry): Record<string, number> {
    const byText: Record<string, number> = Object.create(null)
    for (const [token, logprob] of entry) {
      const key = this.#tokenizer.tokenText(token)
      byText[key] = Math.max(byText[key] ?? lowest, finite(logprob))
    }
    return byText
  }
}

/** JSON has no −∞; this is what other servers write in its place. */
const lowest = -9999

export const finite = (logprob: number): number => Math.max(lowest, logprob)
