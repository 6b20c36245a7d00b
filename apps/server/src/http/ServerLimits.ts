/** What one client may hold or make the server do; each is answered with a clear error when reached. */
export interface ServerLimits {
  /** Bytes of a request body. */
  readonly bodyBytes: number
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
}

export const serverLimits: ServerLimits = {
  bodyBytes: 16 * 1024 * 1024,
  headerBytes: 16 * 1024,
  headers: 100,
  connections: 1024,
  headersTimeoutMs: 10_000,
  requestTimeoutMs: 60_000,
  discardMs: 2_000,
  unknownFields: 256,
}
