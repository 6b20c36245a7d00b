import { Engine } from "@uniprefill/engine/Engine"
import type { ModelList } from "@uniprefill/openai/Model"
import { Effect } from "effect"
import { HttpServerRequest, HttpServerResponse } from "effect/http"
import { PrometheusMetrics } from "effect/observability"
import { checkModel } from "../answers/AnswerPlan.ts"
import { version } from "../Version.ts"
import { apiError } from "./ApiError.ts"
import { describeModel, ServedModel } from "../model/ServedModel.ts"

export const versionRoute = Effect.succeed(HttpServerResponse.jsonUnsafe({ version }))

/** The process answers. Whether it also serves is `/ready`'s to say. */
export const healthRoute = Effect.succeed(HttpServerResponse.jsonUnsafe({ status: "ok" }))

/** 503 while draining, after repeated failures of the executor, and when work waits but no step has committed for `stallSeconds`. */
export const readyRoute = Effect.fnUntraced(function* (stallSeconds: number) {
  const engine = yield* Engine
  const status = yield* engine.status
  const { running, waiting, draining, stalledMicros, stepInFlight } = status
  if (draining) return yield* apiError(503, `draining: ${running} requests still run`)
  if (!status.healthy) return yield* apiError(503, `unhealthy: ${status.failures} steps failed, ${status.lastFailure}`)
  if (stalledMicros > stallSeconds * 1e6) {
    const step = stepInFlight === 0 ? "no step is running" : `step ${stepInFlight} is running`
    const seconds = Math.floor(stalledMicros / 1e6)
    return yield* apiError(503, `stalled: no step has finished for ${seconds} s, ${step}, ${waiting} requests wait`)
  }
  return HttpServerResponse.jsonUnsafe({ status: "ready", running, waiting })
})

/** `GET /v1/models`, and `GET /v1/models/{id}`: ids have slashes, written as they are or as %2F. */
export const modelsRoute = Effect.gen(function* () {
  const served = yield* ServedModel
  const { url } = yield* HttpServerRequest.HttpServerRequest
  const written = url.split("?", 1)[0]!.slice("/v1/models/".length)
  if (written === "") {
    const list: ModelList = { object: "list", data: served.names.map((name) => describeModel(served, name)) }
    return HttpServerResponse.jsonUnsafe(list)
  }
  const name = yield* Effect.try({
    try: () => decodeURIComponent(written),
    catch: () => apiError(400, "the model's name is not encoded as a part of a URL is"),
  })
  return HttpServerResponse.jsonUnsafe(describeModel(served, yield* checkModel(name, served)))
})

export const metricsRoute = Effect.map(PrometheusMetrics.format(), (text) =>
  HttpServerResponse.text(text, { contentType: "text/plain; version=0.0.4; charset=utf-8" }),
)
