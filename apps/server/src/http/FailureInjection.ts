import { Effect } from "effect"
import { HttpServerRequest } from "effect/http"
import { type ApiError, apiError } from "./ApiError.ts"

/** What a fake server can answer in place of an answer. */
const failures = {
  rate_limit: () => apiError(429, "simulated: the queue is full", null, { "retry-after": "1" }),
  invalid_api_key: () => apiError(401, "simulated: no such API key", null, { "www-authenticate": "Bearer" }),
  context_length: () => apiError(400, "simulated: this model takes at most 8 tokens, but the prompt has 9", "prompt"),
  server_error: () => apiError(500, "simulated: the device failed"),
  invalid_request: () => apiError(400, "simulated: the request cannot be served as asked"),
  model_not_found: () => apiError(404, "simulated: the model does not exist", "model"),
  unavailable: () => apiError(503, "simulated: the server is shutting down", null, { "retry-after": "5" }),
} as const

export type FailureType = keyof typeof failures

export const failureTypes = Object.keys(failures) as ReadonlyArray<FailureType>

export interface FailureInjectionOptions {
  readonly rate: number
  readonly types: ReadonlyArray<FailureType>
  /** The same seed fails the same requests of a sequence in the same way. */
  readonly seed: number
}

/** Fails a share of the requests for answers; for servers that fake a model, to try clients and gateways on. */
export const injectFailures = ({ rate, types, seed }: FailureInjectionOptions) => {
  let state = seed >>> 0
  /** Mulberry32. */
  const draw = (): number => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x1_0000_0000
  }
  const next: Effect.Effect<void, ApiError> = Effect.suspend(() => {
    if (draw() >= rate) return Effect.void
    return Effect.fail(failures[types[Math.floor(draw() * types.length)]!]())
  })
  return <A, E, R>(
    app: Effect.Effect<A, E, R>,
  ): Effect.Effect<A, E | ApiError, R | HttpServerRequest.HttpServerRequest> =>
    rate === 0
      ? app
      : Effect.flatMap(HttpServerRequest.HttpServerRequest, ({ method, url }) =>
          method === "POST" && url.startsWith("/v1/") ? Effect.andThen(next, app) : app,
        )
}
