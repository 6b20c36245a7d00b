import type { ApiError } from "../http/ApiError.ts"
import type { AnswerEvent, PlannedChoice } from "./AnswerPlan.ts"

/**
 * How an endpoint says what the engine tells: as the text of server-sent events, by `begin`, `events` and `end` or `failed`,
 * or as one body, by `add` and `whole`. One for each request.
 */
export interface AnswerFormat {
  /** Events that come before anything is generated, all choices'. */
  readonly begin: () => string
  /** Events of one choice that came together; "" where they bring nothing to show, such as a part of a character. */
  readonly events: (choice: PlannedChoice, events: ReadonlyArray<AnswerEvent>) => string
  /** Events after the last choice has finished. */
  readonly end: () => string
  /** Events that end a stream early. */
  readonly failed: (error: ApiError) => string
  /** Takes an event of one choice for the body. */
  readonly add: (choice: PlannedChoice, event: AnswerEvent) => void
  /** The body. Requires: every choice has finished. */
  readonly whole: () => unknown
}

/** The text of one server-sent event. */
export const sse = (data: unknown, name?: string): string =>
  name === undefined ? `data: ${JSON.stringify(data)}\n\n` : `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`

/** Stands for the text of an event in its frame; JSON writes a text of these letters as it is. */
export const frameText = "\u{10fffd}text\u{10fffd}"

/**
 * Events that differ in one text alone: `example` is one that says {@link frameText} there. All else of an event is written
 * once for the whole answer, since an answer has as many events as tokens.
 */
export const textFrame = (example: unknown): ((text: string) => string) => {
  const [before, after, ...more] = sse(example).split(JSON.stringify(frameText))
  if (after === undefined || more.length > 0) throw new TypeError("a frame has one text")
  return (text) => before + JSON.stringify(text) + after
}

/** What ends a stream of OpenAI's, also one that failed. */
export const done = "data: [DONE]\n\n"
