import type { Decoded, InvalidRequest } from "@uniprefill/openai/InvalidRequest"
import { Effect, type Result } from "effect"
import { fromInvalidRequest } from "../http/ApiError.ts"
import { UnknownFields } from "../http/UnknownFields.ts"
import { RequestBodies } from "./RequestBodies.ts"

/** The request's body, decoded; fields that have no effect are logged once. Fails with 400 and as {@link RequestBodies}. */
export const readRequest = <A>(decode: (body: unknown) => Result.Result<Decoded<A>, InvalidRequest>) =>
  Effect.gen(function* () {
    const bodies = yield* RequestBodies
    const body = yield* bodies.read
    const { value, unknownFields } = yield* Effect.fromResult(decode(body)).pipe(Effect.mapError(fromInvalidRequest))
    const seen = yield* UnknownFields
    yield* seen.report(unknownFields)
    return value
  })
