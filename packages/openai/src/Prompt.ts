import { Schema } from "effect"
import { findNoTokenId, isList, isTokenId, type TokenIds } from "./Field.ts"
import { requestLimits } from "./Limits.ts"

/** One prompt as text or tokens, or a list of such. */
export type PromptInput = string | ReadonlyArray<string> | TokenIds | ReadonlyArray<TokenIds>

const expected = "a string, a list of strings, a list of token ids or a list of such lists"

/** One pass over the elements: prompts have hundreds of thousands, and a union schema would try each form on all of them. */
const checkElements = (prompt: PromptInput) => {
  if (typeof prompt === "string") return undefined
  if (prompt instanceof Int32Array) {
    const bad = findNoTokenId(prompt)
    return bad < 0 ? undefined : { path: [bad], issue: "Expected a token id" }
  }
  const kind = typeof prompt[0]
  if (kind !== "number" && prompt.length > requestLimits.prompts) {
    return `Expected at most ${requestLimits.prompts} prompts`
  }
  for (let i = 0; i < prompt.length; i++) {
    const element: unknown = prompt[i]
    if (kind === "number") {
      if (!isTokenId(element)) return { path: [i], issue: "Expected a token id" }
    } else if (isList(element)) {
      if (kind !== "object") return { path: [i], issue: "Expected a string, as in the list's first element" }
      const bad = findNoTokenId(element)
      if (bad >= 0) return { path: [i, bad], issue: "Expected a token id" }
    } else if (kind !== "string" || typeof element !== "string") {
      return { path: [i], issue: i === 0 ? `Expected ${expected}` : "Expected what the list's first element is" }
    }
  }
  return undefined
}

export const Prompt = Schema.declare((input): input is PromptInput => typeof input === "string" || isList(input), {
  expected,
}).check(Schema.makeFilter(checkElements))

/** The prompts of a request, each as text or token ids. */
export const promptsOf = (prompt: PromptInput): ReadonlyArray<string | TokenIds> => {
  if (typeof prompt === "string") return [prompt]
  if (typeof prompt[0] === "number") return [prompt as TokenIds]
  return prompt as ReadonlyArray<string | TokenIds>
}
