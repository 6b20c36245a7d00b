import { Schema } from "effect"
import { maxTokenId } from "./Limits.ts"

/** An optional field of a request. Clients also send null where they mean "default". */
export const optional = <S extends Schema.Constraint>(schema: S) => Schema.optionalKey(Schema.NullOr(schema))

export const finiteBetween = (minimum: number, maximum: number) =>
  Schema.Finite.check(Schema.isBetween({ minimum, maximum }))

export const intBetween = (minimum: number, maximum: number) => Schema.Int.check(Schema.isBetween({ minimum, maximum }))

export const stringUpTo = (length: number) => Schema.String.check(Schema.isMaxLength(length))

/** Token ids of a request; long lists come as an Int32Array from whoever parsed the body. */
export type TokenIds = ReadonlyArray<number> | Int32Array

export const isList = (value: unknown): value is ReadonlyArray<unknown> | Int32Array =>
  Array.isArray(value) || value instanceof Int32Array

export const isTokenId = (value: unknown): value is number =>
  typeof value === "number" && Number.isInteger(value) && value >= 0 && value <= maxTokenId

/** Index of the first element that is no token id; −1 where all are. */
export const findNoTokenId = (ids: ReadonlyArray<unknown> | Int32Array): number =>
  ids instanceof Int32Array ? findNegative(ids) : ids.findIndex((id) => !isTokenId(id))

/** By hand: millions of ids are looked at on the event loop. */
const findNegative = (ids: Int32Array): number => {
  for (let i = 0; i < ids.length; i++) if (ids[i]! < 0) return i
  return -1
}

/** A list of token ids, checked in one pass. */
export const tokenIds = (maxLength: number) =>
  Schema.declare((input): input is TokenIds => isList(input), { expected: "a list of token ids" }).check(
    Schema.makeFilter((ids) => {
      if (ids.length > maxLength) return `Expected at most ${maxLength} token ids`
      const bad = findNoTokenId(ids)
      return bad < 0 ? undefined : { path: [bad], issue: "Expected a token id" }
    }),
  )

/**
 * A number above `minimum`, which is representable as a 32-bit float, and still above it as one: executors compute with
 * such floats, in which 1e-46 is 0.
 */
export const floatAbove = (minimum: number, maximum: number) =>
  Schema.Finite.check(
    Schema.makeFilter((value) =>
      value > minimum && Math.fround(value) > minimum && value <= maximum
        ? undefined
        : `Expected a value above ${minimum} and at most ${maximum}, as a 32-bit float too`,
    ),
  )

/** An integer of 64 bits, signed or unsigned; one that a double cannot hold comes as a bigint. */
export const Seed = Schema.declare(
  (input): input is number | bigint => typeof input === "bigint" || Number.isSafeInteger(input),
  { expected: "an integer of at most 64 bits" },
).check(
  Schema.makeFilter((seed) =>
    seed >= -(2n ** 63n) && seed < 2n ** 64n ? undefined : "Expected an integer of at most 64 bits",
  ),
)
