import { type AnswerStream, Engine, EngineError, type GenerateEvent } from "@uniprefill/engine/Engine"
import { Effect, Stream } from "effect"
import { fromEngineError } from "../http/ApiError.ts"
import { RequestRecord, recordEvent } from "../http/RequestRecord.ts"
import { Tenant } from "../http/Tenant.ts"
import { Shadow } from "./Shadow.ts"
import type { AnswerEvent, AnswerPlan, Finished, PlannedChoice } from "./AnswerPlan.ts"

/** An answer that the engine has taken on. */
export interface Admitted {
  readonly choice: PlannedChoice
  readonly events: AnswerStream
  /**
   * Every batch of events passes through here on its way to the client: it is noted in the record, and what the client did
   * not ask for is left out.
   */
  readonly note: (batch: ReadonlyArray<GenerateEvent>) => ReadonlyArray<AnswerEvent>
  /** How the answer said that it ended; null before. One that ends without is a failure, not an answer. */
  readonly ended: () => Finished["reason"] | null
}

/** What an answer that ended early is. */
export const endedEarly = new EngineError({ reason: "Failed", field: null, detail: "the answer ended early" })

/**
 * Queues every answer of a plan, or fails: overload is a status and not an event. The engine's requests live in the HTTP
 * request's scope: a client that goes away aborts them.
 */
export const admit = Effect.fnUntraced(function* (plan: AnswerPlan, stream: boolean) {
  const engine = yield* Engine
  const record = yield* RequestRecord
  record.requestId = plan.id
  record.tenant = yield* Tenant
  record.stream = stream
  record.prompts = plan.choices.filter(({ answer }) => answer === 0).length
  record.choices = plan.choices.length
  record.promptTokens = plan.promptTokens

  const shadow = yield* Shadow

  // Several prompts are taken together or not at all: those taken before one is refused would be wasted.
  if (plan.requests.length > 1) {
    yield* engine.room(plan.requests.length, plan.promptTokens, record.tenant).pipe(Effect.mapError(fromEngineError))
  }
  const admitted: Array<Admitted> = []
  for (const generate of plan.requests) {
    for (const events of yield* engine.generate(generate).pipe(Effect.mapError(fromEngineError))) {
      const choice = plan.choices[admitted.length]!
      admitted.push(taken(choice, events, record, shadow))
    }
  }
  // No tokens were asked for: there is nothing to compute.
  for (const choice of plan.choices.slice(admitted.length)) {
    admitted.push(taken(choice, Stream.succeed(nothing(choice)), record, shadow))
  }
  return admitted
})

const taken = (
  choice: PlannedChoice,
  events: AnswerStream,
  record: RequestRecord["Service"],
  shadow: Shadow["Service"],
): Admitted => {
  let ended: Finished["reason"] | null = null
  const shown = choice.outputs ? shadow.watch(choice.request, choice.answer) : undefined
  const note = (batch: ReadonlyArray<GenerateEvent>) => {
    const kept = choice.outputs ? batch : withoutOutput(batch)
    for (const event of kept) {
      recordEvent(record, choice.answer, event)
      if (shown !== undefined) shown(event)
      if (event._tag === "Finished") ended = event.reason
    }
    return choice.request.promptLogprobs === undefined ? kept : withPrompt(batch, kept)
  }
  return { choice, events, note, ended: () => ended }
}

/** Tokens of a prompt that are told of without giving others a turn. */
const mostPromptTokens = 1_024

/** The prompt's log-probabilities as events of their own, in parts: of its first token there is none. */
const withPrompt = (
  batch: ReadonlyArray<GenerateEvent>,
  kept: ReadonlyArray<GenerateEvent>,
): ReadonlyArray<AnswerEvent> => {
  for (const event of batch) {
    if (event._tag === "Output" && event.promptLogprobs !== undefined) {
      const all = [[], ...event.promptLogprobs]
      const parts: Array<AnswerEvent> = []
      for (let first = 0; first < all.length; first += mostPromptTokens) {
        parts.push({ _tag: "Prompt", first, logprobs: all.slice(first, first + mostPromptTokens) })
      }
      return [...parts, ...kept]
    }
  }
  return kept
}

/** What the engine computed besides its token, for a client that asked for none. */
const withoutOutput = (batch: ReadonlyArray<GenerateEvent>): ReadonlyArray<GenerateEvent> =>
  batch
    .filter((event) => event._tag !== "Output")
    .map((event) => (event._tag === "Finished" && event.reason !== "abort" ? { ...event, ...noOutput } : event))

const noOutput = { reason: "length", stopReason: null, completionTokens: 0 } as const

const nothing = ({ request }: PlannedChoice): GenerateEvent & Finished => ({
  _tag: "Finished",
  ...noOutput,
  promptTokens: request.prompt.length,
  cachedTokens: 0,
  lowered: false,
  kept: [1],
  bitmaps: [],
  times: { arrivedMicros: 0, firstScheduledMicros: -1, firstTokenMicros: -1, finishedMicros: 0 },
})
