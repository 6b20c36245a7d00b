import { Context } from "effect"

/** What one client may hold or make the server do; each is answered with a clear error when reached. */
export interface ServerLimits {
  /** Bytes of a request body. */
  readonly bodyBytes: number
  /** Bytes of all bodies that are being read or parsed at a time; one body of any size is. */
  readonly bodyBytesInFlight: number
  /** Arrays and objects inside one another, in a body. */
  readonly jsonDepth: number
  /** Keys of a body, and its values that are no integers. */
  readonly jsonValues: number
  /** Bytes of a request's header lines together. */
  readonly headerBytes: number
  /** Header lines of a request. */
  readonly headers: number
  /** Open connections; further ones are closed at once. */
  readonly connections: number
  /** Time to send the headers, in ms. */
  readonly headersTimeoutMs: number
  /** Time to send the whole request, in ms. */
  readonly requestTimeoutMs: number
  /** Time that the rest of a body that is refused for its size may take, in ms. */
  readonly discardMs: number
  /** Names of unknown request fields that are remembered, to log each once. */
  readonly unknownFields: number
  /** Time between comments on a stream that has nothing to say yet, in ms. */
  readonly commentMs: number
  /** Characters of prompts that one answer repeats at most. */
  readonly echoedCharacters: number
  /** Time that a connection may be idle between two requests, in ms: longer than proxies keep theirs. */
  readonly keepAliveMs: number
}

/** The limits in force. */
export class Limits extends Context.Service<Limits, ServerLimits>()("uniprefill/Limits") {}

export const serverLimits: ServerLimits = {
  bodyBytes: 16 * 1024 * 1024,
  bodyBytesInFlight: 256 * 1024 * 1024,
  jsonDepth: 64,
  jsonValues: 32_768,
  headerBytes: 16 * 1024,
  headers: 100,
  connections: 16_384,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 60_000,
  discardMs: 2_000,
  unknownFields: 256,
  commentMs: 10_000,
  echoedCharacters: 8 * 1024 * 1024,
  keepAliveMs: 75_000,
}
