import type { Headers } from "effect/http"
import { HttpServerResponse } from "effect/http"

/** Which web pages of other origins may use this server, as vLLM's options of the same names say. */
export interface CorsOptions {
  /** `*` is every origin. */
  readonly allowedOrigins: ReadonlyArray<string>
  readonly allowedMethods: ReadonlyArray<string>
  readonly allowedHeaders: ReadonlyArray<string>
  readonly allowCredentials: boolean
}

export const corsDefaults: CorsOptions = {
  allowedOrigins: ["*"],
  allowedMethods: ["*"],
  allowedHeaders: ["*"],
  allowCredentials: false,
}

const allMethods = ["DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"]

/** How long a browser may remember what it was told, in seconds. */
const maxAgeSeconds = 600

/** Headers that tell a browser whether the page it shows may read the answer; none where no page asks. */
export const corsHeaders = (options: CorsOptions, request: Headers.Headers): Readonly<Record<string, string>> => {
  const { origin } = request
  if (origin === undefined) return {}
  const every = options.allowedOrigins.includes("*")
  if (!every && !options.allowedOrigins.includes(origin)) return {}
  // With credentials browsers do not take a star.
  const named = !every || options.allowCredentials
  return {
    "access-control-allow-origin": named ? origin : "*",
    ...(named ? { vary: "origin" } : {}),
    ...(options.allowCredentials ? { "access-control-allow-credentials": "true" } : {}),
  }
}

/** The answer to a browser that asks before it sends a request; undefined where the request is no such question. */
export const preflight = (
  options: CorsOptions,
  request: Headers.Headers,
): HttpServerResponse.HttpServerResponse | undefined => {
  const method = request["access-control-request-method"]
  if (request.origin === undefined || method === undefined) return undefined
  const methods = options.allowedMethods.includes("*") ? allMethods : options.allowedMethods
  const asked = request["access-control-request-headers"]
  const headers = options.allowedHeaders.includes("*") ? asked : options.allowedHeaders.join(", ")
  const allowed = corsHeaders(options, request)
  const refused = Object.keys(allowed).length === 0 ? "origin" : methods.includes(method) ? undefined : "method"
  return HttpServerResponse.text(refused === undefined ? "OK" : `Disallowed CORS ${refused}`, {
    status: refused === undefined ? 200 : 400,
    headers: {
      ...allowed,
      "access-control-allow-methods": methods.join(", "),
      "access-control-max-age": String(maxAgeSeconds),
      ...(headers === undefined || headers === "" ? {} : { "access-control-allow-headers": headers }),
    },
  })
}
