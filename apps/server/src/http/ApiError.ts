import type { EngineError } from "@uniprefill/engine/Engine"
import { errorBody } from "@uniprefill/openai/ErrorBody"
import { messagesErrorBody } from "@uniprefill/openai/MessagesRequest"
import type { InvalidRequest } from "@uniprefill/openai/InvalidRequest"
import type { TokenizerError } from "@uniprefill/tokenizer/TokenizerError"
import { Data } from "effect"
import { HttpServerResponse } from "effect/http"

/** A request that is answered with an error: an HTTP status and an OpenAI error body. */
export class ApiError extends Data.TaggedError("ApiError")<{
  readonly status: number
  readonly message: string
  /** The request field at fault. */
  readonly param: string | null
  readonly headers: Readonly<Record<string, string>>
}> {}

export const apiError = (
  status: number,
  message: string,
  param: string | null = null,
  headers: Readonly<Record<string, string>> = {},
): ApiError => new ApiError({ status, message, param, headers })

/** Seconds after which a client may try again: a full queue moves on soon, a draining server does not come back. */
const retryAfterSeconds = { QueueFull: 1, Draining: 5 } as const

const retryAfter = (seconds: number) => ({ "retry-after": String(seconds) })

export const fromInvalidRequest = (error: InvalidRequest): ApiError => apiError(400, error.message, error.param)

export const fromEngineError = (error: EngineError): ApiError => {
  switch (error.reason) {
    case "InvalidRequest":
    case "TooLong":
      return apiError(400, error.detail, error.field)
    case "QueueFull":
      return apiError(429, error.detail, null, retryAfter(retryAfterSeconds.QueueFull))
    case "SlowReader":
      return apiError(408, error.detail)
    case "Draining":
      return apiError(503, error.detail, null, retryAfter(retryAfterSeconds.Draining))
    case "Failed":
      return apiError(500, error.detail)
  }
}

/** This server stops: another one, or this one later, may answer. */
export const shuttingDown = apiError(
  503,
  "the server is shutting down and did not finish this request",
  null,
  retryAfter(retryAfterSeconds.Draining),
)

/** `field` is where the text came from. */
export const fromTokenizerError = (error: TokenizerError, field: string): ApiError => {
  switch (error.reason) {
    case "TextTooLong":
      return apiError(400, error.message, field)
    case "NoChatTemplate":
    case "ChatTemplate":
      return apiError(400, error.detail, error.reason === "ChatTemplate" ? (error.field ?? field) : field)
    case "QueueFull":
      return apiError(429, error.message, null, retryAfter(retryAfterSeconds.QueueFull))
    default:
      return apiError(500, error.message)
  }
}

export const errorResponse = (error: ApiError): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(errorBody(error.status, error.message, error.param), {
    status: error.status,
    headers: error.headers,
  })

/** The same for `/v1/messages`, whose clients expect another shape. */
export const messagesErrorResponse = ({ status, message, headers }: ApiError): HttpServerResponse.HttpServerResponse =>
  HttpServerResponse.jsonUnsafe(messagesErrorBody(status, message), { status, headers })
