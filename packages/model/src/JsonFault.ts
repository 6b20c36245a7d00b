const token =
  /[{}[\],:]|"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"|-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y

type Expected = "value" | "value or ]" | "key" | "key or }" | ":" | ", or end"

/**
 * Where a text stops being JSON, `line 3 column 7`, and what was expected there; null for a text that is JSON. The
 * engine's own messages give a position for some faults only.
 */
export const jsonFault = (text: string): string | null => {
  const open: Array<"{" | "["> = []
  let expected: Expected = "value"
  let at = 0
  for (;;) {
    while (at < text.length && " \t\n\r".includes(text[at]!)) at++
    const complete: boolean = expected === ", or end" && open.length === 0
    if (at === text.length) return complete ? null : `${place(text, at)}: the text ends, expected ${expected}`
    token.lastIndex = at
    const found = token.exec(text)?.[0]
    const next: Expected | null = found === undefined || complete ? null : advance(expected, found, open)
    if (next === null) {
      const wanted = complete ? "the end of the text" : expected
      return `${place(text, at)}: found ${JSON.stringify(found ?? text[at])}, expected ${wanted}`
    }
    expected = next
    at += found!.length
  }
}

/** What may follow `found`, or null where `found` may not stand. Mutates the stack of open brackets. */
const advance = (expected: Expected, found: string, open: Array<"{" | "[">): Expected | null => {
  const close = (bracket: "{" | "[") => (open.pop() === bracket ? ", or end" : null)
  switch (expected) {
    case "key":
    case "key or }":
      if (found === "}" && expected === "key or }") return close("{")
      return found.startsWith('"') ? ":" : null
    case ":":
      return found === ":" ? "value" : null
    case ", or end":
      if (found === ",") return open.at(-1) === "{" ? "key" : "value"
      return found === "}" ? close("{") : found === "]" ? close("[") : null
    default:
      if (found === "]" && expected === "value or ]") return close("[")
      if (found === "{" || found === "[") {
        open.push(found)
        return found === "{" ? "key or }" : "value or ]"
      }
      return /^[}\],:]/.test(found) ? null : ", or end"
  }
}

const place = (text: string, at: number): string => {
  const before = text.slice(0, at).split("\n")
  return `line ${before.length} column ${before.at(-1)!.length + 1}`
}
