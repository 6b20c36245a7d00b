import type { GenerateEvent } from "@uniprefill/engine/Engine"
import { Context } from "effect"

/** What the access log says about a request; filled in on its way. Never the text of a prompt or an answer. */
export class RequestRecord extends Context.Service<
  RequestRecord,
  {
    status: number
    requestId: string | undefined
    /** "" where clients need no key. */
    tenant: string
    stream: boolean
    prompts: number
    choices: number
    promptTokens: number
    completionTokens: number
    cachedTokens: number
    /** Of the first choice that finished. */
    kept: ReadonlyArray<number>
    /** Choices that ended, by reason. */
    readonly finishReasons: Map<string, number>
    queueMs: number | undefined
    firstTokenMs: number | undefined
    /** Message of the error the request was answered with. */
    error: string | undefined
  }
>()("uniprefill/http/RequestRecord") {}

export const emptyRecord = (): RequestRecord["Service"] => ({
  status: 0,
  requestId: undefined,
  tenant: "",
  stream: false,
  prompts: 0,
  choices: 0,
  promptTokens: 0,
  completionTokens: 0,
  cachedTokens: 0,
  kept: [],
  finishReasons: new Map(),
  queueMs: undefined,
  firstTokenMs: undefined,
  error: undefined,
})

/** Adds an event of one choice: answer number `answer` to its prompt. */
export const recordEvent = (record: RequestRecord["Service"], answer: number, event: GenerateEvent): void => {
  if (event._tag === "Output") {
    record.completionTokens += event.tokens.length
    return
  }
  if (answer === 0) record.cachedTokens += event.cachedTokens
  record.finishReasons.set(event.reason, (record.finishReasons.get(event.reason) ?? 0) + 1)
  if (record.kept.length === 0) record.kept = event.kept
  const { arrivedMicros, firstScheduledMicros, firstTokenMicros } = event.times
  // An answer that was given up early has no such times: they are negative.
  if (firstScheduledMicros >= 0) record.queueMs ??= (firstScheduledMicros - arrivedMicros) / 1000
  if (firstTokenMicros >= 0) record.firstTokenMs ??= (firstTokenMicros - arrivedMicros) / 1000
}
