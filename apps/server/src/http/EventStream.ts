import { errorBody } from "@uniprefill/openai/ErrorBody"
import { Cause, Effect, Result, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { type ApiError, apiError } from "./ApiError.ts"

const encoder = new TextEncoder()

const event = (value: unknown): Uint8Array => encoder.encode(`data: ${JSON.stringify(value)}\n\n`)

const done = encoder.encode("data: [DONE]\n\n")

/**
 * Server-sent events: one for each value, then `[DONE]`. The status is sent by then, so a failure on the way is an event
 * with an error body, and no `[DONE]` follows.
 */
export const eventStream = <A, E>(values: Stream.Stream<A, E>, explain: (error: E) => ApiError) => {
  const events = Stream.mapArray(values, (batch) => batch.map(event) as [Uint8Array, ...Array<Uint8Array>])
  const failed = (cause: Cause.Cause<E>) => {
    if (Cause.hasInterruptsOnly(cause)) return Stream.failCause(cause as Cause.Cause<never>)
    const found = Cause.findError(cause)
    if (Result.isFailure(found)) {
      const internal = Stream.succeed(event(errorBody(500, internalError)))
      return Stream.concat(Stream.fromEffectDrain(Effect.logError("request failed", cause)), internal)
    }
    const { status, message, param } = explain(found.success)
    return Stream.succeed(event(errorBody(status, message, param)))
  }
  const body = Stream.catchCause(Stream.concat(events, Stream.succeed(done)), failed)
  return HttpServerResponse.stream(body, {
    contentType: "text/event-stream; charset=utf-8",
    headers: { "cache-control": "no-cache", "x-accel-buffering": "no" },
  })
}

const internalError = "internal error; the server's log has more"

export const internalFailure = apiError(500, internalError)
