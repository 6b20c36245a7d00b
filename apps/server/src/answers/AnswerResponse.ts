import { type EngineError, type GenerateEvent } from "@uniprefill/engine/Engine"
import { Cause, Channel, Effect, Fiber, Option, type Pull, Result, type Scope, Stream } from "effect"
import { HttpServerResponse } from "effect/http"
import { type ApiError, fromEngineError, shuttingDown } from "../http/ApiError.ts"
import { internalFailure } from "../http/InternalFailure.ts"
import { RequestRecord } from "../http/RequestRecord.ts"
import { Limits } from "../http/ServerLimits.ts"
import { type Admitted, admit, endedEarly } from "./Admission.ts"
import type { AnswerFormat } from "./AnswerFormat.ts"
import type { AnswerEvent, AnswerPlan } from "./AnswerPlan.ts"
import { slicedJson } from "./SlicedJson.ts"

/** Admits a plan and answers it in a format, streamed or whole. */
export const respond = Effect.fnUntraced(function* (plan: AnswerPlan, format: AnswerFormat, stream: boolean) {
  const admitted = yield* admit(plan, stream)
  if (!stream) return yield* whole(format, admitted)
  const { commentMs } = yield* Limits
  return streamed(format, admitted, commentMs, yield* RequestRecord, yield* Effect.scope)
})

const whole = Effect.fnUntraced(function* (format: AnswerFormat, admitted: ReadonlyArray<Admitted>) {
  const events = yield* Effect.forEach(admitted, collect, { concurrency: "unbounded" }).pipe(
    Effect.mapError(fromEngineError),
  )
  // A client that is still there did not end it: the server stops.
  if (events.some((of) => of.some((event) => event._tag === "Finished" && event.reason === "abort"))) {
    return yield* shuttingDown
  }
  return yield* slicedJson(format.whole(events))
})

const collect = ({ events, note, finished }: Admitted): Effect.Effect<ReadonlyArray<AnswerEvent>, EngineError> =>
  Effect.suspend(() => {
    const all: Array<AnswerEvent> = []
    const taking = Stream.runForEachArray(events, (batch) =>
      Effect.sync(() => {
        for (const event of note(batch)) all.push(event)
      }),
    )
    return Effect.flatMap(taking, () => (finished() ? Effect.succeed(all) : Effect.fail(endedEarly)))
  })

const eventStreamHeaders = { "cache-control": "no-cache", "x-accel-buffering": "no" } as const

/**
 * A stream begins with its admission: status, headers and a comment at once, and a comment at an interval until something
 * is there, so that no proxy takes a long prefill for a dead connection. A failure on the way is an event, since the
 * status is sent by then.
 */
const streamed = (
  format: AnswerFormat,
  admitted: ReadonlyArray<Admitted>,
  commentMs: number,
  record: RequestRecord["Service"],
  scope: Scope.Scope,
): HttpServerResponse.HttpServerResponse => {
  const explain = (error: EngineError): ApiError => {
    const failure = fromEngineError(error)
    record.error = failure.message
    return failure
  }
  const pull = Effect.gen(function* () {
    const next = yield* texts(format, admitted, scope)
    let state: "head" | "waiting" | "flowing" | "ended" = "head"
    const ended = (cause: Cause.Cause<EngineError | Cause.Done>): BytesPull => {
      if (isDone(cause)) {
        state = "ended"
        if (!admitted.every(({ finished }) => finished())) {
          return Effect.succeed([encode(format.failed(explain(endedEarly)))])
        }
        return Effect.succeed([encode(format.end())])
      }
      if (Cause.hasInterruptsOnly(cause)) return Effect.failCause(cause as Cause.Cause<never>)
      state = "ended"
      const found = Cause.findError(cause as Cause.Cause<EngineError>)
      if (Result.isSuccess(found)) return Effect.succeed([encode(format.failed(explain(found.success)))])
      return Effect.as(Effect.logError("request failed", cause), [encode(format.failed(internalFailure))] as const)
    }
    const onText = (text: string): BytesPull => {
      if (text === "") return flowing
      state = "flowing"
      return Effect.succeed([encode(text)])
    }
    const flowing: BytesPull = Effect.matchCauseEffect(next, { onSuccess: onText, onFailure: ended })
    // The first text may take any number of comments: it is waited for on a fiber, which no comment interrupts.
    let first: Fiber.Fiber<Bytes, Cause.Done> | undefined
    const waiting = Effect.gen(function* () {
      first ??= yield* Effect.forkIn(flowing, scope)
      const text = yield* Effect.timeoutOption(Fiber.join(first), commentMs)
      return Option.getOrElse(text, (): Bytes => [encode(": waiting\n\n")])
    })
    return Effect.suspend((): BytesPull => {
      switch (state) {
        case "head":
          state = "waiting"
          return Effect.succeed([encode(`: admitted\n\n${format.begin()}`)])
        case "waiting":
          return waiting
        case "flowing":
          return flowing
        case "ended":
          return Cause.done()
      }
    })
  })
  return HttpServerResponse.stream(Stream.fromPull(pull), {
    contentType: "text/event-stream; charset=utf-8",
    headers: eventStreamHeaders,
  })
}

type Bytes = readonly [Uint8Array, ...Array<Uint8Array>]

type BytesPull = Pull.Pull<Bytes>

const isDone = (cause: Cause.Cause<unknown>): boolean =>
  cause.reasons.length > 0 && cause.reasons.every((reason) => Cause.isFailReason(reason) && Cause.isDone(reason.error))

/** The answers' events as text, as they come. */
const texts = (
  format: AnswerFormat,
  admitted: ReadonlyArray<Admitted>,
  scope: Scope.Scope,
): Effect.Effect<Pull.Pull<string, EngineError>> => {
  const [only] = admitted
  const textOf =
    ({ choice, note }: Admitted) =>
    (batch: ReadonlyArray<GenerateEvent>) =>
      format.events(choice, note(batch))
  if (admitted.length === 1) {
    const events = Channel.toPullScoped(Stream.toChannel(only!.events), scope)
    return Effect.map(events, Effect.map(textOf(only!)))
  }
  const each = admitted.map((one) => {
    const text = textOf(one)
    return Stream.mapArray(one.events, (batch) => [text(batch)] as [string, ...Array<string>])
  })
  return Effect.map(
    Channel.toPullScoped(Stream.toChannel(Stream.mergeAll(each, { concurrency: "unbounded" })), scope),
    Effect.map((batch: ReadonlyArray<string>) => batch.join("")),
  )
}

const encode = (text: string): Uint8Array => Buffer.from(text, "utf8")
