import { Schema } from "effect"

/** The body of every answer that is not a success, and of an event that ends a stream early. */
export const ErrorBody = Schema.Struct({
  error: Schema.Struct({
    message: Schema.String,
    /** `BadRequestError`, `NotFoundError` … */
    type: Schema.String,
    /** The request field at fault. */
    param: Schema.NullOr(Schema.String),
    /** The HTTP status. */
    code: Schema.Int,
  }),
})
export type ErrorBody = typeof ErrorBody.Type

const types: Readonly<Record<number, string>> = {
  400: "BadRequestError",
  401: "AuthenticationError",
  403: "PermissionDeniedError",
  404: "NotFoundError",
  405: "MethodNotAllowedError",
  408: "RequestTimeoutError",
  413: "PayloadTooLargeError",
  415: "UnsupportedMediaTypeError",
  429: "RateLimitError",
  431: "RequestHeaderFieldsTooLargeError",
  500: "InternalServerError",
  503: "ServiceUnavailableError",
}

export const errorBody = (code: number, message: string, param: string | null = null): ErrorBody => ({
  error: { message, type: types[code] ?? (code < 500 ? "BadRequestError" : "InternalServerError"), param, code },
})
