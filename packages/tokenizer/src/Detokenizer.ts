import { decodeUtf8, incompleteTail, type Vocabulary } from "./Vocabulary.ts"

export interface DetokenizerOptions {
  /** Leaves out special tokens (end of text, roles) as if they were not there. */
  readonly skipSpecialTokens: boolean
  /** The tokens before the first one pushed, when there are some: a character may have begun in them. */
  readonly after?: Int32Array
}

/**
 * Token ids one at a time → the text that is certain.
 *
 * The pieces returned, and `flush` at the end, make the same text as decoding all tokens at once. Bytes of a character that
 * is not complete are held back (at most 3), so no piece ends in half a character and U+FFFD appears only where the bytes
 * can no longer become one. Cost per token: one table look-up where tokens are whole characters.
 */
export class Detokenizer {
  private readonly vocabulary: Vocabulary
  private readonly skipSpecialTokens: boolean
  private held: Uint8Array = nothing
  /** Leading spaces still to be taken away. */
  private strip: number

  constructor(vocabulary: Vocabulary, options: DetokenizerOptions) {
    this.vocabulary = vocabulary
    this.skipSpecialTokens = options.skipSpecialTokens
    this.strip = vocabulary.leadingSpaces
    const after = options.after
    if (after !== undefined && after.length > 0) {
      this.strip = 0
      for (let i = Math.max(0, after.length - tailTokens); i < after.length; i++) this.push(after[i]!)
    }
  }

  push(token: number): string {
    if (this.skipSpecialTokens && this.vocabulary.specialIds.has(token)) return ""
    if (this.held.length === 0) {
      const text = this.vocabulary.wholeText(token)
      if (text !== undefined) return this.stripped(text)
    }
    const added = this.vocabulary.bytesOf(token)
    const bytes = new Uint8Array(this.held.length + added.length)
    bytes.set(this.held)
    bytes.set(added, this.held.length)
    const certain = bytes.length - incompleteTail(bytes, bytes.length)
    this.held = bytes.subarray(certain)
    return certain === 0 ? "" : this.stripped(decodeUtf8(bytes.subarray(0, certain)))
  }

  /** Ends the text: bytes still held become U+FFFD. */
  flush(): string {
    const text = decodeUtf8(this.held)
    this.held = nothing
    return this.stripped(text)
  }

  private stripped(text: string): string {
    if (this.strip === 0 || text === "") return text
    let first = 0
    while (first < this.strip && text[first] === " ") first++
    this.strip = first === text.length ? this.strip - first : 0
    return text.slice(first)
  }
}

const nothing = new Uint8Array(0)

/** A character has at most 4 bytes, so the one that is incomplete began at most 3 tokens back. */
const tailTokens = 4
