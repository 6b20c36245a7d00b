import { Cause, Clock, Effect, Exit } from "effect"
import { HttpServerError, HttpServerRequest, HttpServerResponse } from "effect/http"
import type { HttpMetrics } from "./HttpMetrics.ts"
import { emptyRecord, RequestRecord } from "./RequestRecord.ts"

/** Status in the log for a client that went away before the answer was complete. */
export const clientClosedRequest = 499

/** An answer that was cut short: by the client, by this server as it stops, or by a failure. */
const statusOf = (cause: Cause.Cause<unknown>): number => {
  const interrupts = cause.reasons.filter(Cause.isInterruptReason)
  if (interrupts.some(({ annotations }) => annotations.has(HttpServerError.ClientAbort.key))) return clientClosedRequest
  return interrupts.length > 0 ? 503 : 500
}

const isProbe = (path: string) => path === "/health" || path === "/ready" || path === "/metrics"

/** Runs a request with a record of its own, and logs and counts it when the answer is sent or given up. */
export const accessLog =
  (metrics: HttpMetrics) =>
  <E, R>(
    app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>,
  ): Effect.Effect<
    HttpServerResponse.HttpServerResponse,
    E,
    Exclude<R, RequestRecord> | HttpServerRequest.HttpServerRequest
  > =>
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const started = yield* Clock.currentTimeMillis
      const record = emptyRecord()
      const path = request.url.split("?", 1)[0]!.slice(0, 256)
      return yield* app.pipe(
        Effect.provideService(RequestRecord, record),
        Effect.onExit((exit) =>
          Effect.gen(function* () {
            if (Exit.isSuccess(exit)) record.status = exit.value.status
            else record.status = statusOf(exit.cause)
            metrics.add(path, request.method, record.status, yield* Effect.context())
            const totalMs = (yield* Clock.currentTimeMillis) - started
            yield* (isProbe(path) ? Effect.logDebug("request") : Effect.logInfo("request")).pipe(
              Effect.annotateLogs(annotationsOf(request.method, path, record, totalMs)),
            )
          }),
        ),
      )
    })

const annotationsOf = (method: string, path: string, record: RequestRecord["Service"], totalMs: number) => {
  const fields: Record<string, unknown> = { method, path, status: record.status, total_ms: totalMs }
  if (record.requestId !== undefined) fields.request_id = record.requestId
  if (record.tenant !== "") fields.tenant = record.tenant
  if (record.choices > 0) {
    Object.assign(fields, {
      stream: record.stream,
      prompts: record.prompts,
      choices: record.choices,
      prompt_tokens: record.promptTokens,
      completion_tokens: record.completionTokens,
      cached_tokens: record.cachedTokens,
    })
    if (record.finishReasons.size > 0) {
      fields.finish = [...record.finishReasons].map(([reason, choices]) => `${reason}:${choices}`).join(",")
    }
    if (record.kept.length > 0) fields.kept = record.kept.map((ratio) => ratio.toFixed(3)).join(",")
    if (record.queueMs !== undefined) fields.queue_ms = round(record.queueMs)
    if (record.firstTokenMs !== undefined) fields.first_token_ms = round(record.firstTokenMs)
  }
  if (record.error !== undefined) fields.error = record.error.slice(0, 512)
  return fields
}

const round = (ms: number) => Math.round(ms * 10) / 10
