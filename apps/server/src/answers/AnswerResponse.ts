import type { ServerResponse } from "node:http"
import { toServerResponse } from "@effect/platform-node/NodeHttpServerRequest"
import { type EngineError, takeAll } from "@uniprefill/engine/Engine"
import { Cause, Effect, Latch, Result, Stream } from "effect"
import { HttpServerRequest, HttpServerResponse } from "effect/http"
import { type ApiError, fromEngineError, shuttingDown } from "../http/ApiError.ts"
import { internalFailure } from "../http/InternalFailure.ts"
import { RequestRecord } from "../http/RequestRecord.ts"
import { Limits } from "../http/ServerLimits.ts"
import { type Admitted, admit, endedEarly } from "./Admission.ts"
import type { AnswerFormat } from "./AnswerFormat.ts"
import type { AnswerEvent, AnswerPlan } from "./AnswerPlan.ts"
import { slicedJson } from "./SlicedJson.ts"
import { turn } from "./Slices.ts"

/** Admits a plan and answers it in a format, streamed or whole. */
export const respond = Effect.fnUntraced(function* (plan: AnswerPlan, format: AnswerFormat, stream: boolean) {
  const admitted = yield* admit(plan, stream)
  if (!stream) return yield* whole(format, admitted)
  const { commentMs } = yield* Limits
  const response = toServerResponse(yield* HttpServerRequest.HttpServerRequest) as ServerResponse
  return streamed(format, admitted, commentMs, yield* RequestRecord, response)
})

/** Each event is put into the body as it comes, so that the end of a long answer does not take long. */
const whole = Effect.fnUntraced(function* (format: AnswerFormat, admitted: ReadonlyArray<Admitted>) {
  const take = ({ choice, events, note, ended }: Admitted) =>
    takeAll(events, (batch) =>
      inParts(note(batch), (part) => {
        for (const event of part) format.add(choice, event)
        return null
      }),
    ).pipe(Effect.flatMap(() => (ended() === null ? Effect.fail(endedEarly) : Effect.void)))
  yield* Effect.forEach(admitted, take, { concurrency: "unbounded", discard: true }).pipe(
    Effect.mapError(fromEngineError),
  )
  // A client that is still there did not end it: the server stops.
  if (admitted.some(({ ended }) => ended() === "abort")) return yield* shuttingDown
  return yield* slicedJson(format.whole())
})

/** Others have a turn between the parts that a long prompt's log-probabilities come in. */
const inParts = (
  events: ReadonlyArray<AnswerEvent>,
  each: (part: ReadonlyArray<AnswerEvent>) => Effect.Effect<void> | null,
): Effect.Effect<void> | null => {
  if (events[0]?._tag !== "Prompt") return each(events)
  const prompts = events.findLastIndex((event) => event._tag === "Prompt") + 1
  const parts = [...events.slice(0, prompts).map((event) => [event]), events.slice(prompts)]
  const one = (part: ReadonlyArray<AnswerEvent>) => Effect.suspend(() => each(part) ?? Effect.void)
  return Effect.forEach(parts, (part) => Effect.andThen(turn, one(part)), { discard: true })
}

const eventStreamHeaders = { "cache-control": "no-cache", "x-accel-buffering": "no" } as const

/**
 * A stream begins with its admission: status, headers and a comment at once, and a comment at an interval until something
 * is there, so that no proxy takes a long prefill for a dead connection. A failure on the way is an event, since the
 * status is sent by then.
 *
 * Events are written to Node's response as they come: the body is a stream that has no elements and ends with the answers,
 * since elements of its own would cost more than the rest of an event does.
 */
const streamed = (
  format: AnswerFormat,
  admitted: ReadonlyArray<Admitted>,
  commentMs: number,
  record: RequestRecord["Service"],
  response: ServerResponse,
): HttpServerResponse.HttpServerResponse => {
  const explain = (error: EngineError): ApiError => {
    const failure = fromEngineError(error)
    record.error = failure.message
    return failure
  }
  const last = (cause: Cause.Cause<EngineError>): Effect.Effect<string> => {
    if (Cause.hasInterruptsOnly(cause)) return Effect.failCause(cause as Cause.Cause<never>)
    const found = Cause.findError(cause)
    if (Result.isSuccess(found)) return Effect.sync(() => format.failed(explain(found.success)))
    return Effect.as(Effect.logError("request failed", cause), format.failed(internalFailure))
  }
  const answered = Effect.gen(function* () {
    const drained = Latch.makeUnsafe()
    response.on("drain", () => drained.openUnsafe())
    response.write(`: admitted\n\n${format.begin()}`)
    const comments = yield* Effect.acquireRelease(
      Effect.sync(() => setInterval(() => response.write(": waiting\n\n"), commentMs)),
      (timer) => Effect.sync(() => clearInterval(timer)),
    )
    const taking = Effect.forEach(
      admitted,
      ({ choice, events, note }) =>
        takeAll(events, (batch) =>
          inParts(note(batch), (part) => {
            const text = format.events(choice, part)
            if (text === "") return null
            clearInterval(comments)
            if (response.write(text)) return null
            drained.closeUnsafe()
            return drained.await
          }),
        ),
      { concurrency: "unbounded", discard: true },
    )
    const ended = Effect.sync(() =>
      admitted.every((one) => one.ended() !== null) ? format.end() : format.failed(explain(endedEarly)),
    )
    const text = yield* Effect.catchCause(Effect.andThen(taking, ended), last)
    response.write(text)
  })
  return HttpServerResponse.stream(Stream.fromEffectDrain(Effect.scoped(answered)), {
    contentType: "text/event-stream; charset=utf-8",
    headers: eventStreamHeaders,
  })
}
