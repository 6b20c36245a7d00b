/** What a JSON text may hold. */
export interface JsonLimits {
  /** Arrays and objects inside one another. */
  readonly jsonDepth: number
  /** Keys, and values other than integers: lists of token ids may be long, everything else is small. */
  readonly jsonValues: number
}

/**
 * Whether a JSON text exceeds a limit, in one pass over its bytes and before anything is built from it; null if not. Texts
 * that are no JSON get any answer, and an error from the parser.
 */
export const scanJson = (bytes: Uint8Array, { jsonDepth, jsonValues }: JsonLimits): string | null => {
  let depth = 0
  let values = 0
  /** Whether all of the value so far is digits; a value without anything does not count. */
  let isInteger = true
  for (let i = 0; i < bytes.length; i++) {
    const byte = bytes[i]!
    if (byte >= zero && byte <= nine) continue
    switch (byte) {
      case comma:
        if (!isInteger) values++
        isInteger = true
        break
      case quote:
        isInteger = false
        i = endOfString(bytes, i)
        break
      case openArray:
      case openObject:
        if (++depth > jsonDepth) return `nests more than ${jsonDepth} arrays and objects`
        values++
        isInteger = true
        break
      case closeArray:
      case closeObject:
        depth--
        if (!isInteger) values++
        isInteger = true
        break
      case colon:
        values++
        isInteger = true
        break
      case space:
      case lineFeed:
      case carriageReturn:
      case tab:
      case minus:
        break
      default:
        isInteger = false
    }
    if (values > jsonValues) return `has more than ${jsonValues} keys and values that are no integers`
  }
  return null
}

/** Index of the quote that ends the string that begins at `start`; the last index where none does. */
const endOfString = (bytes: Uint8Array, start: number): number => {
  for (let from = start + 1; ;) {
    const at = bytes.indexOf(quote, from)
    if (at < 0) return bytes.length - 1
    let slashes = 0
    while (bytes[at - 1 - slashes] === backslash) slashes++
    if (slashes % 2 === 0) return at
    from = at + 1
  }
}

const zero = 0x30
const nine = 0x39
const quote = 0x22
const backslash = 0x5c
const comma = 0x2c
const colon = 0x3a
const openArray = 0x5b
const closeArray = 0x5d
const openObject = 0x7b
const closeObject = 0x7d
const space = 0x20
const lineFeed = 0x0a
const carriageReturn = 0x0d
const tab = 0x09
const minus = 0x2d
