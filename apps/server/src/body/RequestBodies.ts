import { makeThreadPool } from "@uniprefill/threads/ThreadPool"
import { Context, Effect, Latch, Layer, type Scope, Stream } from "effect"
import { HttpServerRequest } from "effect/http"
import { type ApiError, apiError } from "../http/ApiError.ts"
import type { ServerLimits } from "../http/ServerLimits.ts"
import { Tenant } from "../http/Tenant.ts"
import type { LongestText } from "../answers/TextExcess.ts"
import { type BodyEncoding, bodyEncodings, type BodyJob, type ParsedBody, parseBody } from "./JsonBody.ts"

/** Bodies of requests, read and parsed without stalling the event loop. */
export class RequestBodies extends Context.Service<
  RequestBodies,
  {
    /**
     * The request's body as {@link parseBody} gives it, with no text longer than `longestText` allows. Fails with 413 where it has more than `bodyBytes`, with 415 for
     * another content type (a web page can post `text/plain` anywhere without asking) or an unknown encoding, with 400
     * where it is not JSON or beyond a limit, and with 503 while too much of others is being read.
     */
    readonly read: (
      longestText: LongestText,
    ) => Effect.Effect<unknown, ApiError, HttpServerRequest.HttpServerRequest | Tenant | Scope.Scope>
  }
>()("uniprefill/RequestBodies") {
  static readonly layer = (limits: ServerLimits): Layer.Layer<RequestBodies> =>
    Layer.effect(RequestBodies, make(limits))
}

/** Bodies up to this size are parsed at once: 0.5 ms. */
const inlineBytes = 65_536

const make = Effect.fnUntraced(function* (
  limits: ServerLimits,
): Effect.fn.Return<RequestBodies["Service"], never, Scope.Scope> {
  const { bodyBytes, jsonDepth, jsonValues } = limits
  const pool = yield* makeThreadPool<BodyJob, ParsedBody>({
    entry,
    workerData: { bodyBytes, jsonDepth, jsonValues },
    name: "the body parser",
    threads: 1,
    maxWaiting: limits.connections,
  })
  /** Bytes of bodies that are being read or parsed. */
  let held = 0
  const hold = (bytes: number) =>
    Effect.acquireRelease(
      Effect.suspend(() => {
        if (held > 0 && held + bytes > limits.bodyBytesInFlight) return Effect.fail(tooBusy(limits))
        held += bytes
        return Effect.void
      }),
      () => Effect.sync(() => void (held -= bytes)),
    )
  const parse = ({ bytes, encoding, longestText }: BodyJob) =>
    bytes.byteLength <= inlineBytes && encoding === null
      ? Effect.sync(() => parseBody(bytes, null, { ...limits, longestText }))
      : Effect.flatMap(Tenant, (caller) =>
          pool.run({ bytes, encoding, longestText }, { caller, transfer: [bytes.buffer as ArrayBuffer] }),
        ).pipe(
          Effect.mapError((error) =>
            error.reason === "QueueFull" ? tooBusy(limits) : apiError(500, `the body parser failed: ${error.detail}`),
          ),
        )
  const read = Effect.fnUntraced(function* (longestText: LongestText) {
    const { headers } = yield* HttpServerRequest.HttpServerRequest
    yield* checkContentType(headers["content-type"])
    const encoding = yield* encodingOf(headers["content-encoding"])
    const parsed = yield* Effect.scoped(
      Effect.gen(function* () {
        const announced = headers["content-length"]
        yield* hold(Math.min(bodyBytes, announced === undefined ? bodyBytes : Number(announced)))
        return yield* Effect.flatMap(readBytes(limits), (bytes) => parse({ bytes, encoding, longestText }))
      }),
    )
    if (parsed.refused === null) return parsed.value
    return yield* apiError(parsed.refused.status, parsed.refused.message, parsed.refused.param)
  })
  return RequestBodies.of({ read })
})

const checkContentType = (header: string | undefined) => {
  const contentType = header?.split(";", 1)[0]?.trim().toLowerCase()
  if (contentType === "application/json") return Effect.void
  return apiError(415, `content-type must be application/json, got ${contentType?.slice(0, 64) ?? "none"}`)
}

const encodingOf = (header: string | undefined): Effect.Effect<BodyEncoding | null, ApiError> => {
  const name = header?.trim().toLowerCase() ?? "identity"
  if (name === "identity" || name === "") return Effect.succeed(null)
  const known = bodyEncodings.find((encoding) => encoding === name || `x-${encoding}` === name)
  if (known !== undefined) return Effect.succeed(known)
  const message = `content-encoding must be one of ${bodyEncodings.join(", ")}, got ${name.slice(0, 64)}`
  return apiError(415, message, null, { "accept-encoding": bodyEncodings.join(", ") })
}

const tooBusy = ({ bodyBytesInFlight }: ServerLimits) =>
  apiError(503, `request bodies of more than ${bodyBytesInFlight} bytes are being read`, null, { "retry-after": "1" })

const readBytes = ({ bodyBytes: maxBytes, discardMs }: ServerLimits) =>
  Effect.gen(function* () {
    const request = yield* HttpServerRequest.HttpServerRequest
    const announced = Number(request.headers["content-length"] ?? 0)
    if (announced > maxBytes) {
      if (announced <= maxBytes * discardFactor) yield* discardBody(request, announced, discardMs)
      return yield* tooLarge(maxBytes, `${announced} bytes`)
    }
    const isKnown = request.headers["content-length"] !== undefined
    const body =
      isKnown && announced <= inlineBytes
        ? smallBody(request)
        : largeBody(request, isKnown ? announced : maxBytes, discardMs)
    const bytes = yield* Effect.catch(body, () => apiError(400, "the request body could not be read"))
    return bytes ?? (yield* tooLarge(maxBytes, "more"))
  })

const smallBody = (request: HttpServerRequest.HttpServerRequest) =>
  Effect.map(request.arrayBuffer, (buffer) => new Uint8Array(buffer))

/**
 * Bytes are put in their place as they come: to join the parts of 15 MB at the end would take tens of ms. Null where there
 * are more than `atMost`; of those, so many are read as {@link discardBody} reads.
 */
const largeBody = (request: HttpServerRequest.HttpServerRequest, atMost: number, discardMs: number) =>
  Effect.suspend(() => {
    let bytes = new Uint8Array(Math.min(atMost, inlineBytes))
    let length = 0
    const excess = Latch.makeUnsafe()
    const taking = Stream.runForEachWhile(request.stream, (chunk) =>
      Effect.sync(() => {
        const end = length + chunk.byteLength
        if (end <= atMost) {
          if (end > bytes.byteLength) {
            const whole = new Uint8Array(atMost)
            whole.set(bytes)
            bytes = whole
          }
          bytes.set(chunk, length)
        }
        length = end
        if (length > atMost) excess.openUnsafe()
        return length <= atMost * discardFactor
      }),
    )
    const longEnough = Effect.andThen(excess.await, Effect.sleep(discardMs))
    return Effect.map(Effect.raceFirst(taking, longEnough), () => (length > atMost ? null : bytes.subarray(0, length)))
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

// Beside this module: .ts when run from source, .js when compiled.
const entry = new URL(import.meta.url.endsWith(".ts") ? "./jsonThreadMain.ts" : "./jsonThreadMain.js", import.meta.url)
