import type { ApiError } from "../http/ApiError.ts"
import type { AnswerEvent, PlannedChoice } from "./AnswerPlan.ts"

/** How an endpoint says what the engine tells: as the text of server-sent events, or as one body. One for each request. */
export interface AnswerFormat {
  /** Events that come before anything is generated, all choices'. */
  readonly begin: () => string
  /** Events of one choice that came together; "" where they bring nothing to show, such as a part of a character. */
  readonly events: (choice: PlannedChoice, events: ReadonlyArray<AnswerEvent>) => string
  /** Events after the last choice has finished. */
  readonly end: () => string
  /** Events that end a stream early. */
  readonly failed: (error: ApiError) => string
  /** The body. Requires: the events of every choice, in the order of the choices, each list with its `Finished`. */
  readonly whole: (events: ReadonlyArray<ReadonlyArray<AnswerEvent>>) => unknown
}

/** The text of one server-sent event. */
export const sse = (data: unknown, name?: string): string =>
  name === undefined ? `data: ${JSON.stringify(data)}\n\n` : `event: ${name}\ndata: ${JSON.stringify(data)}\n\n`

/** What ends a stream of OpenAI's, also one that failed. */
export const done = "data: [DONE]\n\n"
