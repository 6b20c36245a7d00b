import { Engine } from "@uniprefill/engine/Engine"
import { Effect, Layer, Schema } from "effect"
import { HttpRouter, HttpServer, HttpServerRequest, HttpServerResponse } from "effect/http"
import { Dropping } from "../answers/Dropping.ts"
import { ApiError, apiError, errorResponse } from "../http/ApiError.ts"
import * as HttpListener from "../http/HttpListener.ts"
import { internalFailure } from "../http/InternalFailure.ts"
import { serverLimits } from "../http/ServerLimits.ts"

const SwitchBody = Schema.Struct({ enabled: Schema.Boolean })

const stateRoute = Effect.gen(function* () {
  const { enabled } = yield* Dropping
  const { model, status } = yield* Engine
  return HttpServerResponse.jsonUnsafe({ dropping: enabled && model.drops, ...(yield* status) })
})

/** `POST /dropping` with `{"enabled": false}` serves requests from now on dense; those that run are not changed. */
const droppingRoute = Effect.gen(function* () {
  const dropping = yield* Dropping
  const request = yield* HttpServerRequest.HttpServerRequest
  const { enabled } = yield* Effect.flatMap(request.json, Schema.decodeUnknownEffect(SwitchBody)).pipe(
    Effect.mapError(() => apiError(400, 'expected {"enabled": true} or {"enabled": false}')),
  )
  if (dropping.enabled !== enabled) {
    dropping.enabled = enabled
    yield* Effect.logWarning(enabled ? "token dropping turned on" : "token dropping turned off")
  }
  return yield* stateRoute
})

const answerErrors = <E, R>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
  Effect.catch(app, (error) => {
    if (error instanceof ApiError) return Effect.succeed(errorResponse(error))
    const isUnknown = (error as { readonly reason?: { readonly _tag?: string } }).reason?._tag === "RouteNotFound"
    return Effect.succeed(errorResponse(isUnknown ? apiError(404, "there are /state and /dropping") : internalFailure))
  })

/** Refuses what a page in a browser sends, also under a name that it made point here. */
const sameSite = Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ headers, method }) => {
  const host = headers.host?.replace(/:\d+$/, "")
  if (headers.origin !== undefined || !["127.0.0.1", "localhost", "[::1]"].includes(host ?? "")) {
    return Effect.fail(apiError(403, "not for web pages"))
  }
  const isJson = headers["content-type"]?.startsWith("application/json") ?? false
  return method !== "POST" || isJson ? Effect.void : Effect.fail(apiError(415, "content-type must be application/json"))
})

/** The switches on the HttpServer at hand. */
export const routes = Layer.unwrap(
  Effect.gen(function* () {
    const added = HttpRouter.addAll([
      HttpRouter.route("GET", "/state", stateRoute),
      HttpRouter.route("POST", "/dropping", droppingRoute),
    ])
    const { address } = yield* HttpServer.HttpServer
    yield* Effect.logInfo("admin").pipe(Effect.annotateLogs({ url: HttpServer.formatAddress(address) }))
    const app = yield* HttpRouter.toHttpEffect(added)
    return HttpServer.serve(answerErrors(Effect.andThen(sameSite, app)))
  }),
)

/**
 * Switches for an operator, on a port of their own that only this machine reaches. A web page cannot use them either: what a
 * page may send without being asked has no JSON content type, and there is nothing here that tells it that it may.
 */
export const layer = (port: number) =>
  routes.pipe(Layer.provide(HttpListener.layer({ host: "127.0.0.1", port, limits: serverLimits, closeGraceMs: 100 })))
