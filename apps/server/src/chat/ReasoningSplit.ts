/** What is certain of an answer: thoughts and what is said, in this order. */
export interface SplitText {
  readonly reasoning: string
  readonly content: string
}

const opening = "<think>"
const closing = "</think>"

/** How a template and a prompt mark thoughts. */
export interface ReasoningMarks {
  /** The prompt ends inside thoughts: the answer begins with them. */
  readonly open: boolean
}

/**
 * Whether a model's template marks thoughts, and whether this prompt has begun them. Null where it does not: then an answer
 * that has such marks has them as text.
 */
export const reasoningMarks = (template: string | null, prompt: string): ReasoningMarks | null => {
  if (template === null || !template.includes(closing)) return null
  const opened = prompt.lastIndexOf(opening)
  return { open: opened >= 0 && prompt.indexOf(closing, opened) < 0 }
}

/**
 * Parts an answer that comes in pieces into thoughts and what is said. Thoughts are between the marks at the answer's
 * beginning; what may be the start of a mark is held back.
 */
export class ReasoningSplit {
  #state: "start" | "reasoning" | "content"
  #held = ""

  constructor(marks: ReasoningMarks | null) {
    this.#state = marks === null ? "content" : marks.open ? "reasoning" : "start"
  }

  push(piece: string): SplitText {
    if (this.#state === "content") return { reasoning: "", content: piece }
    const text = this.#held + piece
    this.#held = ""
    if (this.#state === "start") {
      const begun = text.trimStart()
      if (begun.startsWith(opening)) {
        this.#state = "reasoning"
        return this.push(begun.slice(opening.length))
      }
      if (opening.startsWith(begun)) {
        this.#held = text
        return nothing
      }
      this.#state = "content"
      return { reasoning: "", content: text }
    }
    const at = text.indexOf(closing)
    if (at >= 0) {
      this.#state = "content"
      return { reasoning: text.slice(0, at), content: text.slice(at + closing.length) }
    }
    const held = startOfMark(text)
    this.#held = text.slice(text.length - held)
    return { reasoning: text.slice(0, text.length - held), content: "" }
  }

  /** What was held back, at the end. */
  flush(): SplitText {
    const held = this.#held
    this.#held = ""
    return this.#state === "reasoning" ? { reasoning: held, content: "" } : { reasoning: "", content: held }
  }
}

const nothing: SplitText = { reasoning: "", content: "" }

/** Characters at the end of a text that may be the start of the closing mark. */
const startOfMark = (text: string): number => {
  for (let length = Math.min(closing.length - 1, text.length); length > 0; length--) {
    if (closing.startsWith(text.slice(text.length - length))) return length
  }
  return 0
}
