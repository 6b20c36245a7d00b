import { Schema } from "effect"
import { maxTokenId } from "./Limits.ts"

/** An optional field of a request. Clients also send null where they mean "default". */
export const optional = <S extends Schema.Constraint>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

export const finiteBetween = (minimum: number, maximum: number) =>
  Schema.Finite.check(Schema.isBetween({ minimum, maximum }))

export const intBetween = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

export const stringUpTo = (length: number) => Schema.String.check(Schema.isMaxLength(length))

export const isTokenId = (value: unknown): value is number =>
  typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= maxTokenId

/** A list of token ids, checked in one pass. */
export const tokenIds = (maxLength: number) =>
  Schema.declare((input): input is ReadonlyArray<number> => Array.isArray(input), {
    expected: "a list of token ids",
  }).check(
    Schema.makeFilter((ids) => {
      if (ids.length > maxLength) return `Expected at most ${maxLength} token ids`
      const bad = ids.findIndex((id) => !isTokenId(id))
      return bad < 0 ? undefined : { path: [bad], issue: "Expected a token id" }
    }),
  )
