import type { Decoded, InvalidRequest } from "@uniprefill/openai/InvalidRequest"
import { Effect, type Result } from "effect"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import type { LongestText } from "../answers/TextExcess.ts"
import { fromInvalidRequest } from "../http/ApiError.ts"
import { ServedModel } from "../model/ServedModel.ts"
import { UnknownFields } from "../http/UnknownFields.ts"
import { RequestBodies } from "./RequestBodies.ts"

/**
 * The request's body, decoded; fields that have no effect are logged once. `texts` that are longer are refused. Fails with 400 and as {@link RequestBodies}.
 */
export const readRequest = <A>(
  decode: (body: unknown) => Result.Result<Decoded<A>, InvalidRequest>,
  texts: "that fit" | LongestText = "that fit",
) =>
  Effect.gen(function* () {
    const bodies = yield* RequestBodies
    const { longestToken } = yield* Tokenizer
    const { maxModelLen } = yield* ServedModel
    const body = yield* bodies.read(texts === "that fit" ? { _tag: "Model", maxModelLen, longestToken } : texts)
    const { value, unknownFields } = yield* Effect.fromResult(decode(body)).pipe(Effect.mapError(fromInvalidRequest))
    const seen = yield* UnknownFields
    yield* seen.report(unknownFields)
    return value
  })
