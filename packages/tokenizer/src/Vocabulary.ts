import type { TokenizerJson } from "./TokenizerFiles.ts"

/**
 * Token id → bytes of text.
 *
 * Every decoder that language models use writes the same bytes for a token wherever it stands (but for spaces at the very
 * start of a text, see {@link leadingSpaces}). So a text is the concatenation of its tokens' bytes, and decoding it is
 * UTF-8 decoding. Supported: `ByteLevel`, and `Sequence`s and single steps of `Replace`, `ByteFallback`, `Fuse`, `Strip`
 * and `Metaspace`.
 */
export class Vocabulary {
  /** One more than the largest id. */
  readonly size: number
  /** Spaces that decoding takes away from the start of a text. */
  readonly leadingSpaces: number
  readonly specialIds: ReadonlySet<number>

  private readonly pieces: ReadonlyArray<string | undefined>
  private readonly addedIds: ReadonlySet<number>
  private readonly rule: DecodeRule
  /** Texts of tokens that are whole characters; filled as they are asked for. */
  private readonly texts: Array<string | undefined>

  /** Throws {@link VocabularyError} naming the field when the decoder or the vocabulary cannot be used. */
  constructor(json: TokenizerJson) {
    const pieces: Array<string | undefined> = []
    const place = (piece: unknown, id: unknown, field: string) => {
      if (typeof piece !== "string") throw new VocabularyError("InvalidField", field, "not a string")
      if (!Number.isInteger(id) || (id as number) < 0 || (id as number) >= maxVocabulary) {
        throw new VocabularyError("InvalidField", field, `not a token id in 0 … ${maxVocabulary - 1}: ${String(id)}`)
      }
      pieces[id as number] = piece
    }
    const { vocab } = json.model
    if (Array.isArray(vocab)) {
      vocab.forEach((entry, id) => place(Array.isArray(entry) ? entry[0] : entry, id, `model.vocab[${id}]`))
    } else if (typeof vocab === "object" && vocab !== null) {
      for (const [piece, id] of Object.entries(vocab)) place(piece, id, `model.vocab[${JSON.stringify(piece)}]`)
    } else throw new VocabularyError("InvalidField", "model.vocab", "neither an object nor an array")
    const added = json.added_tokens ?? []
    added.forEach((token, index) => place(token.content, token.id, `added_tokens[${index}].id`))

    this.pieces = pieces
    this.size = pieces.length
    this.addedIds = new Set(added.map((token) => token.id))
    this.specialIds = new Set(added.filter((token) => token.special === true).map((token) => token.id))
    this.rule = decodeRule(json.decoder)
    this.leadingSpaces = this.rule.leadingSpaces
    this.texts = new Array<string | undefined>(pieces.length)
  }

  /** The bytes that token `id` adds to a text; none for an id without a token. */
  bytesOf(id: number): Uint8Array {
    let piece = this.pieces[id]
    if (piece === undefined) return noBytes
    if (this.rule.byteLevel) return (this.addedIds.has(id) ? undefined : byteLevelBytes(piece)) ?? utf8.encode(piece)
    for (const [from, to] of this.rule.replacements) piece = piece.replaceAll(from, to)
    const fallback = this.rule.byteFallback ? /^<0x([0-9A-Fa-f]{2})>$/.exec(piece) : null
    return fallback === null ? utf8.encode(piece) : Uint8Array.of(Number.parseInt(fallback[1]!, 16))
  }

  /** The text of a token whose bytes end where a character ends; undefined when they do not. */
  wholeText(id: number): string | undefined {
    const known = this.texts[id]
    if (known !== undefined) return known
    const bytes = this.bytesOf(id)
    if (incompleteTail(bytes, bytes.length) > 0) return undefined
    const text = decodeUtf8(bytes)
    if (id < this.size) this.texts[id] = text
    return text
  }

  /** The text of a token that stands alone, with U+FFFD for what is not a character. */
  textOf(id: number): string {
    return this.wholeText(id) ?? decodeUtf8(this.bytesOf(id))
  }
}

export class VocabularyError extends Error {
  readonly reason: "InvalidField" | "Unsupported"
  readonly field: string

  constructor(reason: "InvalidField" | "Unsupported", field: string, detail: string) {
    super(detail)
    this.reason = reason
    this.field = field
  }
}

/** Far above any model's; keeps a wrong id from allocating a table of its size. */
const maxVocabulary = 16_777_216

const utf8 = new TextEncoder()
const fromUtf8 = new TextDecoder("utf-8", { ignoreBOM: true })
const noBytes = new Uint8Array(0)

export const decodeUtf8 = (bytes: Uint8Array): string => fromUtf8.decode(bytes)

/**
 * How many of the last bytes belong to a character whose other bytes have not come: 0 … 3. What is before them can be
 * decoded at once: a character starts there, and none that started earlier reaches over it.
 */
export const incompleteTail = (bytes: Uint8Array, length: number): number => {
  for (let back = 1; back <= 3 && back <= length; back++) {
    const byte = bytes[length - back]!
    if ((byte & 0xc0) === 0x80) continue
    const needed =
      byte >= 0xf0 && byte <= 0xf4 ? 4 : byte >= 0xe0 && byte < 0xf0 ? 3 : byte >= 0xc2 && byte < 0xe0 ? 2 : 1
    return needed > back ? back : 0
  }
  return 0
}

interface DecodeRule {
  readonly byteLevel: boolean
  readonly byteFallback: boolean
  readonly replacements: ReadonlyArray<readonly [from: string, to: string]>
  readonly leadingSpaces: number
}

const decodeRule = (decoder: TokenizerJson["decoder"]): DecodeRule => {
  if (decoder === null) throw new VocabularyError("Unsupported", "decoder", "a tokenizer without a decoder")
  const steps = decoder.type === "Sequence" ? decoder.decoders : [decoder]
  if (!Array.isArray(steps)) throw new VocabularyError("InvalidField", "decoder.decoders", "not an array")
  let byteLevel = false
  let byteFallback = false
  let leadingSpaces = 0
  const replacements: Array<readonly [string, string]> = []
  steps.forEach((step: Record<string, unknown>, index) => {
    const field = decoder.type === "Sequence" ? `decoder.decoders[${index}]` : "decoder"
    const unsupported = (what: string) => new VocabularyError("Unsupported", field, what)
    switch (step.type) {
      case "ByteLevel":
        byteLevel = true
        break
      case "ByteFallback":
        byteFallback = true
        break
      case "Fuse":
        break
      case "Replace": {
        const pattern = (step.pattern as { readonly String?: unknown } | undefined)?.String
        if (typeof pattern !== "string") throw unsupported("Replace with a pattern that is not a plain string")
        if (typeof step.content !== "string") throw unsupported("Replace without a content")
        replacements.push([pattern, step.content])
        break
      }
      case "Strip":
        if (step.content !== " " || (step.stop ?? 0) !== 0) throw unsupported("Strip of anything but leading spaces")
        leadingSpaces = Number(step.start ?? 0)
        break
      case "Metaspace":
        if (typeof step.replacement !== "string") throw unsupported("Metaspace without a replacement")
        replacements.push([step.replacement, " "])
        if (step.prepend_scheme !== "never" && step.add_prefix_space !== false) leadingSpaces = 1
        break
      default:
        throw unsupported(`decoder type ${JSON.stringify(step.type)}`)
    }
  })
  if (byteLevel && steps.length > 1) {
    throw new VocabularyError("Unsupported", "decoder", "ByteLevel together with other decoders")
  }
  return { byteLevel, byteFallback, replacements, leadingSpaces }
}

/**
 * Byte-level vocabularies write each byte as one printable character: bytes that are printable in Latin-1 as themselves,
 * the other 68 as U+0100 and up, in order.
 */
const byteOfCharacter: ReadonlyMap<string, number> = (() => {
  const table = new Map<string, number>()
  let shifted = 0
  for (let byte = 0; byte < 256; byte++) {
    const printable = (byte >= 0x21 && byte <= 0x7e) || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae
    table.set(String.fromCharCode(printable ? byte : 256 + shifted++), byte)
  }
  return table
})()

/** Undefined when a character stands for no byte: such a token means its own text. */
const byteLevelBytes = (piece: string): Uint8Array | undefined => {
  const bytes = new Uint8Array(piece.length)
  for (let i = 0; i < piece.length; i++) {
    const byte = byteOfCharacter.get(piece[i]!)
    if (byte === undefined) return undefined
    bytes[i] = byte
  }
  return bytes
}
