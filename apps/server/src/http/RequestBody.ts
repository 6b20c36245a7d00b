import { ByteSize, Effect, Stream } from "effect"
import { HttpIncomingMessage, type HttpServerError, HttpServerRequest } from "effect/http"
import { type ApiError, apiError } from "./ApiError.ts"
import type { ServerLimits } from "./ServerLimits.ts"

const utf8 = new TextDecoder("utf-8", { fatal: true })

/**
 * The request's body as parsed JSON. Fails with 413 where it has more than `bodyBytes`, with 415 for another content
 * type (a web page can post `text/plain` anywhere without asking), with 400 where it is not JSON.
 */
export const readJsonBody = ({
  bodyBytes: maxBytes,
  discardMs,
}: ServerLimits): Effect.Effect<unknown, ApiError, HttpServerRequest.HttpServerRequest> =>
  Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const contentType = request.headers["content-type"]?.split(";", 1)[0]?.trim().toLowerCase()
    if (contentType !== "application/json") {
      return yield* apiError(415, `content-type must be application/json, got ${contentType?.slice(0, 64) ?? "none"}`)
    }
    const announced = Number(request.headers["content-length"] ?? 0)
    if (announced > maxBytes) {
      if (announced <= maxBytes * discardFactor) yield* discardBody(request, announced, discardMs)
      return yield* tooLarge(maxBytes, `${announced} bytes`)
    }
    const bytes = yield* request.arrayBuffer.pipe(
      Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(maxBytes)),
      Effect.catch((error) =>
        isTooLarge(error)
          ? Effect.andThen(discardBody(request, maxBytes * discardFactor, discardMs), tooLarge(maxBytes, "more"))
          : apiError(400, "the request body could not be read"),
      ),
    )
    return yield* Effect.try({
      try: () => JSON.parse(utf8.decode(bytes)) as unknown,
      catch: (cause) =>
        apiError(400, `request body is not JSON: ${bytes.byteLength === 0 ? "it is empty" : (cause as Error).message}`),
    })
  })

/** Bodies of up to this many times the limit are read to their end before they are refused. */
const discardFactor = 4

/**
 * Reads and forgets what is still to come of a body. Most clients send all of it before they look for an answer, and a
 * connection that is closed meanwhile loses them the answer. One that waits to be asked for its body is not asked.
 */
const discardBody = (request: HttpServerRequest.HttpServerRequest, maxBytes: number, ms: number) => {
  if (request.headers.expect !== undefined) return Effect.void
  let bytes = 0
  return request.stream.pipe(
    Stream.takeWhile((chunk) => (bytes += chunk.byteLength) < maxBytes),
    Stream.runDrain,
    Effect.timeoutOption(ms),
    Effect.ignore,
  )
}

const tooLarge = (maxBytes: number, got: string) =>
  apiError(413, `request body exceeds the limit of ${maxBytes} bytes, got ${got}`)

const isTooLarge = (error: HttpServerError.HttpServerError) =>
  error.reason._tag === "RequestParseError" && error.reason.reason === "BodyTooLarge"
