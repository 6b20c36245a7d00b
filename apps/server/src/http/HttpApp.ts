import { Cause, Effect, Layer, Result } from "effect"
import { HttpRouter, HttpServer, HttpServerError, HttpServerRequest, HttpServerResponse } from "effect/http"
import { accessLog } from "./AccessLog.ts"
import { ApiError, apiError, errorResponse } from "./ApiError.ts"
import { ApiKeys } from "./ApiKeys.ts"
import { completionRoute } from "../completions/CompletionRoute.ts"
import { internalFailure } from "./EventStream.ts"
import { RequestRecord } from "./RequestRecord.ts"
import type { ServerLimits } from "./ServerLimits.ts"
import { Tenant } from "./Tenant.ts"
import { healthRoute, metricsRoute, modelsRoute, readyRoute, versionRoute } from "./StatusRoutes.ts"
import { detokenizeRoute, tokenizeRoute } from "../tokenization/TokenizationRoutes.ts"
import { UnknownFields } from "./UnknownFields.ts"

export interface HttpAppOptions {
  /** Keys of which a client must present one, on all but the status paths; each is a tenant. Empty: none needed. */
  readonly apiKeys: ReadonlyArray<string>
  readonly limits: ServerLimits
  /** `/ready` says 503 when work waits and no step has committed for this long. */
  readonly stallSeconds: number
}

/** Paths that need no key, so that probes and scrapers can be kept simple. */
const statusPaths: ReadonlySet<string> = new Set(["/health", "/ready", "/metrics", "/version"])

const makeRoutes = ({ limits, stallSeconds }: HttpAppOptions) => [
  HttpRouter.route("GET", "/health", healthRoute),
  HttpRouter.route("GET", "/ready", readyRoute(stallSeconds)),
  HttpRouter.route("GET", "/metrics", metricsRoute),
  HttpRouter.route("GET", "/version", versionRoute),
  HttpRouter.route("GET", "/v1/models", modelsRoute),
  HttpRouter.route("POST", "/v1/completions", completionRoute(limits)),
  HttpRouter.route("POST", "/tokenize", tokenizeRoute(limits)),
  HttpRouter.route("POST", "/detokenize", detokenizeRoute(limits)),
]

const pathOf = (request: HttpServerRequest.HttpServerRequest) => request.url.split("?", 1)[0]!

/** Answers what no route matched: 405 on a path that is there for another method, else 404. */
const notMatched = (request: HttpServerRequest.HttpServerRequest, methods: ReadonlyMap<string, string>) => {
  const path = pathOf(request)
  const allowed = methods.get(path)
  if (allowed !== undefined) {
    return apiError(405, `${path} answers ${allowed}, not ${request.method}`, null, { allow: allowed })
  }
  if (path === "/v1/chat/completions") {
    return apiError(404, "chat completions are not served yet; send the prompt to /v1/completions")
  }
  return apiError(404, `no such path: ${path.slice(0, 256)}; see /v1/models, /v1/completions, /health, /metrics`)
}

/** Turns whatever went wrong into an answer, and notes it in the record. Interruption passes. */
const answerErrors =
  (methods: ReadonlyMap<string, string>) =>
  <E, R>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
    Effect.catchCause(app, (cause) =>
      Effect.gen(function* () {
        if (Cause.hasInterruptsOnly(cause)) return yield* Effect.failCause(cause as Cause.Cause<never>)
        const request = yield* HttpServerRequest.HttpServerRequest
        const record = yield* RequestRecord
        const found = Cause.findError(cause)
        let error = internalFailure
        if (Result.isSuccess(found) && found.success instanceof ApiError) error = found.success
        else if (Result.isSuccess(found) && isNotMatched(found.success)) error = notMatched(request, methods)
        else yield* Effect.logError("request failed", cause)
        record.error = error.message
        return errorResponse(error)
      }),
    )

const isNotMatched = (error: unknown) =>
  error instanceof HttpServerError.HttpServerError && error.reason._tag === "RouteNotFound"

/** Answers clients that present a key, as the tenant that it stands for. */
const authenticated =
  (keys: ApiKeys) =>
  <E, R>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const tenant = statusPaths.has(pathOf(request)) ? "" : keys.tenantOf(request.headers.authorization)
      if (tenant !== null) return yield* Effect.provideService(app, Tenant, tenant)
      return yield* apiError(401, "send an API key of this server as `Authorization: Bearer KEY`", null, {
        "www-authenticate": "Bearer",
      })
    })

/** Serves the routes on the HttpServer at hand. */
export const layer = (options: HttpAppOptions) => {
  const routes = makeRoutes(options)
  const methods = new Map<string, string>(routes.map(({ path, method }) => [path, method]))
  const keys = new ApiKeys(options.apiKeys)
  const serve = Effect.gen(function* () {
    const routed = yield* HttpRouter.toHttpEffect(HttpRouter.addAll(routes))
    const app = routed.pipe(authenticated(keys), answerErrors(methods))
    return HttpServer.serve(app, accessLog)
  })
  return Layer.unwrap(serve).pipe(Layer.provide(UnknownFields.layer(options.limits.unknownFields)))
}
