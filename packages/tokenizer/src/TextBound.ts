import type { TokenizerJson } from "./TokenizerFiles.ts"

/**
 * How few tokens a text can have: what proves that it never fits, before any of it is tokenised.
 *
 * The bound holds where every character of a text becomes part of some token, so that a text has at least as many tokens as
 * the longest one fits into it. Tokenizers that leave characters out (blanks between words, unknown letters) or merge
 * them without end have no such bound.
 */
export interface TextBound {
  /** UTF-16 units of text that one token stands for at most; null where there is no bound. */
  readonly longestToken: number | null
}

export const textBound = (json: TokenizerJson): TextBound => {
  const contraction = normalizerContraction(json.normalizer)
  if (contraction === null || !keepsAll(json.pre_tokenizer) || !knowsAll(json)) return { longestToken: null }
  const added = json.added_tokens ?? []
  // Such a token takes any number of blanks beside it.
  if (added.some((token) => token.lstrip === true || token.rstrip === true)) return { longestToken: null }
  let longest = 1
  for (const piece of piecesOf(json)) longest = Math.max(longest, piece.length)
  for (const { content } of added) longest = Math.max(longest, content.length)
  return { longestToken: longest * contraction }
}

/** Tokens that a text of so many UTF-16 units has at least. */
export const fewestTokens = ({ longestToken }: TextBound, length: number): number =>
  longestToken === null ? 0 : Math.ceil(length / longestToken)

type Node = Readonly<Record<string, unknown>>

const isNode = (value: unknown): value is Node => typeof value === "object" && value !== null && !Array.isArray(value)

/** By how much a normalizer makes a text shorter at most; null: without a bound. */
const normalizerContraction = (normalizer: unknown): number | null => {
  if (normalizer === null || normalizer === undefined) return 1
  if (!isNode(normalizer)) return null
  switch (normalizer.type) {
    case "Prepend":
      return 1
    // The longest canonical decomposition has four characters.
    case "NFC":
    case "NFKC":
      return 4
    case "Replace": {
      const from = isNode(normalizer.pattern) ? normalizer.pattern.String : undefined
      const to = normalizer.content
      return typeof from === "string" && typeof to === "string" && to.length >= from.length ? 1 : null
    }
    case "Sequence": {
      let product = 1
      for (const step of Array.isArray(normalizer.normalizers) ? normalizer.normalizers : [null]) {
        const one = step === null ? null : normalizerContraction(step)
        if (one === null) return null
        product *= one
      }
      return product
    }
    default:
      return null
  }
}

const keepsAll = (preTokenizer: unknown): boolean => {
  if (preTokenizer === null || preTokenizer === undefined) return true
  if (!isNode(preTokenizer)) return false
  switch (preTokenizer.type) {
    case "ByteLevel":
    case "Metaspace":
    case "Digits":
      return true
    case "Split":
    case "Punctuation":
      return preTokenizer.behavior !== "Removed"
    case "Sequence":
      return Array.isArray(preTokenizer.pretokenizers) && preTokenizer.pretokenizers.every(keepsAll)
    default:
      return false
  }
}

const piecesOf = ({ model }: TokenizerJson): ReadonlyArray<string> => {
  const { vocab } = model
  if (Array.isArray(vocab)) return vocab.map((entry) => String(Array.isArray(entry) ? entry[0] : entry))
  return Object.keys(vocab as object)
}

/** Whether every character has a token: of its bytes, if it has none of its own. */
const knowsAll = (json: TokenizerJson): boolean => {
  const pieces = new Set(piecesOf(json))
  const { model } = json
  if (model.byte_fallback === true) {
    return bytes.every((byte) => pieces.has(`<0x${byte.toString(16).toUpperCase().padStart(2, "0")}>`))
  }
  if (json.decoder?.type !== "ByteLevel" || (model.type ?? "BPE") !== "BPE") return false
  let single = 0
  for (const piece of pieces) if (piece.length === 1) single++
  return single >= 256
}

const bytes = Array.from({ length: 256 }, (_, byte) => byte)
