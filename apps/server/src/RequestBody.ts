import { ByteSize, Effect } from "effect"
import { HttpIncomingMessage, type HttpServerError, HttpServerRequest } from "effect/http"
import { type ApiError, apiError } from "./ApiError.ts"

const utf8 = new TextDecoder("utf-8", { fatal: true })

/**
 * The request's body as parsed JSON. Fails with 413 as soon as more than `maxBytes` have come, with 415 for another
 * content type (a web page can post `text/plain` anywhere without asking), with 400 where it is not JSON.
 */
export const readJsonBody = (maxBytes: number): Effect.Effect<unknown, ApiError, HttpServerRequest.HttpServerRequest> =>
  Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const contentType = request.headers["content-type"]?.split(";", 1)[0]?.trim().toLowerCase()
    if (contentType !== "application/json") {
      return yield* apiError(415, `content-type must be application/json, got ${contentType?.slice(0, 64) ?? "none"}`)
    }
    const announced = Number(request.headers["content-length"] ?? 0)
    if (announced > maxBytes) return yield* tooLarge(maxBytes, `${announced} bytes`)
    const bytes = yield* request.arrayBuffer.pipe(
      Effect.provideService(HttpIncomingMessage.MaxBodySize, ByteSize.bytes(maxBytes)),
      Effect.mapError((error) =>
        isTooLarge(error) ? tooLarge(maxBytes, "more") : apiError(400, "the request body could not be read"),
      ),
    )
    return yield* Effect.try({
      try: () => JSON.parse(utf8.decode(bytes)) as unknown,
      catch: (cause) =>
        apiError(400, `request body is not JSON: ${bytes.byteLength === 0 ? "it is empty" : (cause as Error).message}`),
    })
  })

const tooLarge = (maxBytes: number, got: string) =>
  apiError(413, `request body exceeds the limit of ${maxBytes} bytes, got ${got}`)

const isTooLarge = (error: HttpServerError.HttpServerError) =>
  error.reason._tag === "RequestParseError" && error.reason.reason === "BodyTooLarge"
