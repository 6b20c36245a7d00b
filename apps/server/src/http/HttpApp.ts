import { Cause, Effect, Layer, Result } from "effect"
import { HttpRouter, HttpServer, HttpServerError, HttpServerRequest, HttpServerResponse } from "effect/http"
import { RequestBodies } from "../body/RequestBodies.ts"
import { chatRoute } from "../chat/ChatRoutes.ts"
import { completionRoute } from "../completions/CompletionRoutes.ts"
import { messagesRoute } from "../messages/MessageRoutes.ts"
import { responsesRoute } from "../responses/ResponseRoutes.ts"
import { renderChatRoute, renderCompletionRoute } from "../tokenization/RenderRoutes.ts"
import { detokenizeRoute, tokenizeRoute } from "../tokenization/TokenizationRoutes.ts"
import { accessLog } from "./AccessLog.ts"
import { ApiError, apiError, errorResponse, messagesErrorResponse } from "./ApiError.ts"
import { ApiKeys } from "./ApiKeys.ts"
import { type CorsOptions, corsDefaults, corsHeaders, preflight } from "./Cors.ts"
import { type FailureInjectionOptions, injectFailures } from "./FailureInjection.ts"
import { GatewayHints, gatewayHints, gatewayTenant } from "./GatewayHints.ts"
import { HttpMetrics } from "./HttpMetrics.ts"
import { internalFailure } from "./InternalFailure.ts"
import { RequestRecord } from "./RequestRecord.ts"
import { Limits, type ServerLimits } from "./ServerLimits.ts"
import { healthRoute, metricsRoute, modelsRoute, readyRoute, versionRoute } from "./StatusRoutes.ts"
import { Tenant } from "./Tenant.ts"
import { UnknownFields } from "./UnknownFields.ts"

export interface HttpAppOptions {
  /** Keys of which a client must present one, on all but the status paths; each is a tenant. Empty: none needed. */
  readonly apiKeys: ReadonlyArray<string>
  readonly limits: ServerLimits
  /** `/ready` says 503 when work waits and no step has committed for this long. */
  readonly stallSeconds: number
  readonly cors?: CorsOptions | undefined
  /** Share of requests for answers that get an error in place of one, where the server is a fake. */
  readonly failures?: FailureInjectionOptions | undefined
  /** Whether headers of a gateway decide about tenant, priority and deadline. */
  readonly trustGateway?: boolean | undefined
}

/** Paths that need no key, so that probes and scrapers can be kept simple. */
const statusPaths: ReadonlySet<string> = new Set(["/health", "/ready", "/metrics", "/version"])

const makeRoutes = ({ stallSeconds }: HttpAppOptions) => [
  HttpRouter.route("GET", "/health", healthRoute),
  HttpRouter.route("GET", "/ready", readyRoute(stallSeconds)),
  HttpRouter.route("GET", "/metrics", metricsRoute),
  HttpRouter.route("GET", "/version", versionRoute),
  HttpRouter.route("GET", "/v1/models/*", modelsRoute),
  HttpRouter.route("POST", "/v1/completions", completionRoute),
  HttpRouter.route("POST", "/v1/chat/completions", chatRoute),
  HttpRouter.route("POST", "/v1/responses", responsesRoute),
  HttpRouter.route("POST", "/v1/messages", messagesRoute),
  HttpRouter.route("POST", "/v1/completions/render", renderCompletionRoute),
  HttpRouter.route("POST", "/v1/chat/completions/render", renderChatRoute),
  HttpRouter.route("POST", "/tokenize", tokenizeRoute),
  HttpRouter.route("POST", "/detokenize", detokenizeRoute),
]

const pathOf = (request: HttpServerRequest.HttpServerRequest) => request.url.split("?", 1)[0]!

type Methods = ReadonlyMap<string, string>

const methodOf = (methods: Methods, path: string): string | undefined =>
  methods.get(path) ?? (path.startsWith("/v1/models/") ? "GET" : undefined)

/** Answers what no route matched: OPTIONS, 405 on a path that is there for another method, else 404. */
const notMatched = (request: HttpServerRequest.HttpServerRequest, methods: Methods) => {
  const path = pathOf(request)
  const allowed = methodOf(methods, path)
  if (allowed === undefined) {
    return apiError(404, `no such path: ${path.slice(0, 256)}; there are ${[...methods.keys()].join(", ")}`)
  }
  if (allowed === request.method) return apiError(400, "the path is not encoded as a URL is")
  return apiError(405, `${path} answers ${allowed}, not ${request.method}`, null, { allow: `${allowed}, OPTIONS` })
}

/** Turns whatever went wrong into an answer, and notes it in the record. Interruption passes. */
const answerErrors =
  (methods: Methods) =>
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
        return pathOf(request) === "/v1/messages" ? messagesErrorResponse(error) : errorResponse(error)
      }),
    )

const isNotMatched = (error: unknown) =>
  error instanceof HttpServerError.HttpServerError && error.reason._tag === "RouteNotFound"

/** Clients of `/v1/messages` send their key in a header of its own. */
const bearer = (key: string | undefined) => (key === undefined ? undefined : `Bearer ${key}`)

/** Answers clients that present a key, as the tenant that it stands for. */
const authenticated =
  (keys: ApiKeys, trustGateway: boolean) =>
  <E, R>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const tenant = statusPaths.has(pathOf(request))
        ? ""
        : keys.tenantOf(request.headers.authorization ?? bearer(request.headers["x-api-key"]))
      if (tenant === null) {
        return yield* apiError(401, "send an API key of this server as `Authorization: Bearer KEY`", null, {
          "www-authenticate": "Bearer",
        })
      }
      return yield* app.pipe(
        Effect.provideService(Tenant, gatewayTenant(tenant, request.headers, trustGateway)),
        Effect.provideService(GatewayHints, gatewayHints(request.headers, trustGateway)),
      )
    })

/**
 * What browsers and gateways read in the headers of every answer, errors included: whether the page may see it, and the
 * request's id. Questions of browsers are answered here, before a key is asked for, which they do not send.
 */
const annotated =
  (cors: CorsOptions, methods: Methods) =>
  <E, R>(app: Effect.Effect<HttpServerResponse.HttpServerResponse, E, R>) =>
    Effect.gen(function* () {
      const request = yield* HttpServerRequest.HttpServerRequest
      const { headers, method } = request
      if (method === "OPTIONS") {
        const answer = preflight(cors, headers)
        if (answer !== undefined) return answer
        const allowed = methodOf(methods, pathOf(request))
        if (allowed !== undefined) {
          return HttpServerResponse.empty({ status: 204, headers: { allow: `${allowed}, OPTIONS` } })
        }
      }
      const response = yield* app
      const id = gatewayHints(headers, false).requestId
      const more = { ...corsHeaders(cors, headers), ...(id === undefined ? {} : { "x-request-id": id }) }
      return Object.keys(more).length === 0 ? response : HttpServerResponse.setHeaders(response, more)
    })

/** Serves the routes on the HttpServer at hand. */
export const layer = (options: HttpAppOptions) => {
  const { limits, cors = corsDefaults, trustGateway = false, failures = { rate: 0, types: [], seed: 0 } } = options
  const routes = makeRoutes(options)
  const methods = new Map<string, string>(routes.map(({ path, method }) => [path.replace("/*", ""), method]))
  const keys = new ApiKeys(options.apiKeys)
  const serve = Effect.gen(function* () {
    const routed = yield* HttpRouter.toHttpEffect(HttpRouter.addAll(routes))
    const app = routed.pipe(
      injectFailures(failures),
      authenticated(keys, trustGateway),
      answerErrors(methods),
      annotated(cors, methods),
    )
    return HttpServer.serve(app, accessLog(new HttpMetrics(methods.keys())))
  })
  return Layer.unwrap(serve).pipe(
    Layer.provide([
      UnknownFields.layer(limits.unknownFields),
      RequestBodies.layer(limits),
      Layer.succeed(Limits, limits),
    ]),
  )
}
