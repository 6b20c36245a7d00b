/**
 * Finds the first of several strings to be complete in a text that comes in pieces, and holds back what may be the start
 * of one.
 *
 * However the text is cut into pieces, the result is the same: the match is the one that ends first, and of those that end
 * together the longest. Cost: a character is compared once per string (Knuth–Morris–Pratt), amortised.
 */
export class StopStrings {
  private readonly patterns: ReadonlyArray<Pattern>
  private held = ""

  /** The strings are not empty. */
  constructor(stops: ReadonlyArray<string>) {
    this.patterns = stops.map((text) => ({ text, failure: failureTable(text), matched: 0 }))
  }

  /** Takes the next piece; nothing may follow a match. */
  push(piece: string): StopResult {
    if (this.patterns.length === 0) return { text: piece, match: null }
    const text = this.held + piece
    for (let i = this.held.length; i < text.length; i++) {
      let match: Pattern | undefined
      for (const pattern of this.patterns) {
        if (advance(pattern, text.charCodeAt(i)) && pattern.text.length > (match?.text.length ?? 0)) match = pattern
      }
      if (match !== undefined) {
        this.held = ""
        return { text: text.slice(0, i + 1 - match.text.length), match: match.text }
      }
    }
    let longest = 0
    for (const pattern of this.patterns) longest = Math.max(longest, pattern.matched)
    this.held = text.slice(text.length - longest)
    return { text: text.slice(0, text.length - longest), match: null }
  }

  /** Gives up what is held back: the text has ended. */
  flush(): string {
    const { held } = this
    this.held = ""
    for (const pattern of this.patterns) pattern.matched = 0
    return held
  }
}

export interface StopResult {
  /** Text that is certain: it comes before every match. */
  readonly text: string
  /** The string that was found, or null. */
  readonly match: string | null
}

interface Pattern {
  readonly text: string
  /** failure[n]: length of the longest proper prefix of text[0, n) that is also its suffix. */
  readonly failure: Int32Array
  /** How many of the pattern's first characters the text ends with. */
  matched: number
}

const advance = (pattern: Pattern, unit: number): boolean => {
  const { text, failure } = pattern
  while (pattern.matched > 0 && text.charCodeAt(pattern.matched) !== unit) pattern.matched = failure[pattern.matched]!
  if (text.charCodeAt(pattern.matched) === unit) pattern.matched++
  return pattern.matched === text.length
}

const failureTable = (text: string): Int32Array => {
  const failure = new Int32Array(text.length + 1)
  let prefix = 0
  for (let i = 1; i < text.length; i++) {
    while (prefix > 0 && text[prefix] !== text[i]) prefix = failure[prefix]!
    if (text[prefix] === text[i]) prefix++
    failure[i + 1] = prefix
  }
  return failure
}
