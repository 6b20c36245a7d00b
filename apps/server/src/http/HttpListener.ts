import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http"
import type { Socket } from "node:net"
import * as NodeHttpServer from "@effect/platform-node/NodeHttpServer"
import { errorBody } from "@uniprefill/openai/ErrorBody"
import { Data, Effect, Layer } from "effect"
import { HttpServer } from "effect/http"
import type { ServerLimits } from "./ServerLimits.ts"

export interface ListenOptions {
  readonly host: string
  /** 0 takes any free port. */
  readonly port: number
  readonly limits: ServerLimits
  /** On release: how long answers that are being sent may take, before their connections are closed. */
  readonly closeGraceMs: number
}

/** The address cannot be listened on. */
export class ListenError extends Data.TaggedError("ListenError")<{ readonly message: string }> {}

/**
 * A listening HTTP server that bounds what a connection may hold, answers malformed requests with an error body, and
 * on release closes every connection, also those that never sent a whole request.
 */
export const layer = (options: ListenOptions): Layer.Layer<HttpServer.HttpServer, ListenError> =>
  Layer.effect(
    HttpServer.HttpServer,
    Effect.gen(function* () {
      const server = makeServer(options.limits)
      const { host, port, closeGraceMs } = options
      const listening = yield* NodeHttpServer.make(() => server, {
        host,
        port,
        gracefulShutdownTimeout: closeGraceMs,
      }).pipe(Effect.mapError((error) => explain(options, error.cause)))
      yield* Effect.addFinalizer(() => Effect.sync(() => server.closeAllConnections()))
      return listening
    }),
  )

const makeServer = (limits: ServerLimits): Server => {
  const server = createServer({
    maxHeaderSize: limits.headerBytes,
    headersTimeout: limits.headersTimeoutMs,
    requestTimeout: limits.requestTimeoutMs,
    keepAliveTimeout: limits.keepAliveMs,
    connectionsCheckingInterval: Math.min(1000, limits.headersTimeoutMs),
  })
  server.maxHeadersCount = limits.headers
  server.maxConnections = limits.connections
  server.on("clientError", refuseMalformed())
  server.on("request", (request, response) => {
    // The app listens too once it is mounted; before that nobody else answers.
    if (server.listenerCount("request") === 1) answerEarly(request, response)
  })
  return server
}

/** The port is taken before the model is loaded. */
const answerEarly = (request: IncomingMessage, response: ServerResponse): void => {
  request.resume()
  const body = JSON.stringify(errorBody(503, "the model is being loaded"))
  response.writeHead(503, { "content-type": "application/json", "retry-after": "1", connection: "close" }).end(body)
}

const malformed: Readonly<Record<string, readonly [status: number, reason: string, message: string]>> = {
  HPE_HEADER_OVERFLOW: [431, "Request Header Fields Too Large", "the request's headers exceed the limit"],
  ERR_HTTP_REQUEST_TIMEOUT: [408, "Request Timeout", "the request did not arrive in time"],
}

/** Refusals that are sent without giving others a turn. */
const refusalsATurn = 64

/** Thousands of connections may come to their time limit in the same moment: they are told in turns with everything else. */
const refuseMalformed = () => {
  const waiting = new Map<Socket, NodeJS.ErrnoException>()
  const next = () => {
    let left = refusalsATurn
    for (const [socket, error] of waiting) {
      if (left-- === 0) return void setImmediate(next)
      waiting.delete(socket)
      answerMalformed(error, socket)
    }
  }
  return (error: NodeJS.ErrnoException, socket: Socket): void => {
    // The time limit is looked at again before a turn has come.
    if (waiting.has(socket) || socket.writableEnded) return
    if (waiting.size === 0) setImmediate(next)
    waiting.set(socket, error)
  }
}

const answerMalformed = (error: NodeJS.ErrnoException, socket: Socket): void => {
  if (error.code === "ECONNRESET" || !socket.writable) return void socket.destroy()
  const [status, reason, message] = malformed[error.code ?? ""] ?? [400, "Bad Request", "the request is not HTTP"]
  const body = JSON.stringify(errorBody(status, message))
  socket.end(
    `HTTP/1.1 ${status} ${reason}\r\ncontent-type: application/json\r\ncontent-length: ${Buffer.byteLength(body)}\r\n` +
      `connection: close\r\n\r\n${body}`,
  )
}

const explain = ({ host, port }: ListenOptions, cause: unknown): ListenError => {
  const { code, message } = cause as NodeJS.ErrnoException
  const address = `${host}:${port}`
  if (code === "EADDRINUSE") {
    return new ListenError({
      message: `${address} is in use: stop what listens there, or give another port with --port (0 takes any free one)`,
    })
  }
  if (code === "EACCES") {
    return new ListenError({
      message: `not allowed to listen on ${address}: ports below 1024 need privileges; use --port`,
    })
  }
  if (code === "EADDRNOTAVAIL" || code === "ENOTFOUND") {
    return new ListenError({ message: `this machine has no address ${host}: give --host 127.0.0.1 or 0.0.0.0` })
  }
  return new ListenError({ message: `cannot listen on ${address}: ${message}` })
}
