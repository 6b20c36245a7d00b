import { type AnswerStream, Engine, EngineError } from "@uniprefill/engine/Engine"
import { decodeCompletionRequest } from "@uniprefill/openai/CompletionRequest"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { fromEngineError, fromInvalidRequest } from "../http/ApiError.ts"
import { CompletionAnswer } from "./CompletionAnswer.ts"
import { type CompletionPlan, type PlannedChoice, planCompletion } from "./CompletionPlan.ts"
import { eventStream } from "../http/EventStream.ts"
import { readJsonBody } from "../http/RequestBody.ts"
import { RequestRecord, recordEvent } from "../http/RequestRecord.ts"
import type { ServerLimits } from "../http/ServerLimits.ts"
import { Tenant } from "../http/Tenant.ts"
import { UnknownFields } from "../http/UnknownFields.ts"

interface Admitted {
  readonly choice: PlannedChoice
  readonly events: AnswerStream
}

/**
 * `POST /v1/completions`. Every answer of the request is admitted before the response begins, so that overload is a
 * status and not an event. The engine's requests live in the HTTP request's scope: a client that goes away aborts them.
 */
export const completionRoute = Effect.fnUntraced(function* (limits: ServerLimits) {
  const body = yield* readJsonBody(limits)
  const { value: request, unknownFields } = yield* Effect.fromResult(decodeCompletionRequest(body)).pipe(
    Effect.mapError(fromInvalidRequest),
  )
  const seen = yield* UnknownFields
  yield* seen.report(unknownFields)
  const plan = yield* planCompletion(request)
  yield* recordPlan(plan, request.stream === true)

  const engine = yield* Engine
  const record = yield* RequestRecord
  yield* roomFor(plan).pipe(Effect.mapError(fromEngineError))
  const admitted: Array<Admitted> = []
  for (const generate of plan.requests) {
    for (const events of yield* engine.generate(generate).pipe(Effect.mapError(fromEngineError))) {
      const choice = plan.choices[admitted.length]!
      admitted.push({ choice, events: checked(choice, events, record) })
    }
  }
  const answer = new CompletionAnswer(plan, yield* Tokenizer)
  return request.stream === true ? streamed(plan, answer, admitted, record) : yield* whole(answer, admitted)
})

/** Several prompts are taken together or not at all: those taken before one is refused would be wasted. */
const roomFor = Effect.fnUntraced(function* ({ requests, promptTokens }: CompletionPlan) {
  if (requests.length === 1) return
  const engine = yield* Engine
  yield* engine.room(requests.length, promptTokens)
})

const recordPlan = Effect.fnUntraced(function* (plan: CompletionPlan, stream: boolean) {
  const record = yield* RequestRecord
  record.requestId = plan.id
  record.tenant = yield* Tenant
  record.stream = stream
  record.prompts = plan.requests.length
  record.choices = plan.choices.length
  record.promptTokens = plan.promptTokens
})

/** The events of one answer, noted in the record. A stream that ends without saying how is a failure, not an answer. */
const checked = (choice: PlannedChoice, events: AnswerStream, record: RequestRecord["Service"]): AnswerStream => {
  let finished = false
  const noted = Stream.mapArray(events, (batch) => {
    for (const event of batch) {
      recordEvent(record, choice.answer, event)
      if (event._tag === "Finished") finished = true
    }
    return batch
  })
  const broken = new EngineError({ reason: "Failed", field: null, detail: "the answer ended early" })
  return Stream.concat(
    noted,
    Stream.suspend(() => (finished ? Stream.empty : Stream.fail(broken))),
  )
}

const whole = (answer: CompletionAnswer, admitted: ReadonlyArray<Admitted>) =>
  Effect.forEach(admitted, ({ events }) => Stream.runCollect(events), { concurrency: "unbounded" }).pipe(
    Effect.mapBoth({
      onSuccess: (events) => HttpServerResponse.jsonUnsafe(answer.completion(events)),
      onFailure: fromEngineError,
    }),
  )

const streamed = (
  plan: CompletionPlan,
  answer: CompletionAnswer,
  admitted: ReadonlyArray<Admitted>,
  record: RequestRecord["Service"],
) => {
  const streams = admitted.map(({ choice, events }) => {
    const chunks = Stream.flattenIterable(Stream.mapArray(events, (batch) => [answer.chunks(choice, batch)] as const))
    return choice.prefix === "" ? chunks : Stream.concat(Stream.succeed(answer.echo(choice)), chunks)
  })
  const chunks = streams.length === 1 ? streams[0]! : Stream.mergeAll(streams, { concurrency: "unbounded" })
  const tail = Stream.suspend(() => (plan.includeUsage ? Stream.succeed(answer.usageChunk()) : Stream.empty))
  return eventStream(Stream.concat(chunks, tail), (error) => {
    const failure = fromEngineError(error)
    record.error = failure.message
    return failure
  })
}
