import { ByteSize, Option, Result } from "effect"
import type { OptionSpec } from "./Options.ts"

interface Described {
  readonly metavar: string
  readonly description: string
}

export const text = (
  spec: Described & { readonly defaultValue: string; readonly shownDefault?: string },
): OptionSpec<string> => ({
  ...spec,
  shownDefault: spec.shownDefault ?? spec.defaultValue,
  decode: (given) => (given === "" ? Result.fail("some text") : Result.succeed(given)),
})

export const optionalText = (spec: Described & { readonly shownDefault?: string }): OptionSpec<string | undefined> => ({
  ...spec,
  shownDefault: spec.shownDefault,
  defaultValue: undefined,
  decode: (given) => (given === "" ? Result.fail("some text") : Result.succeed(given)),
})

/** Values separated by commas. */
export const list = (spec: Described & { readonly shownDefault?: string }): OptionSpec<ReadonlyArray<string>> => ({
  ...spec,
  shownDefault: spec.shownDefault,
  defaultValue: [],
  decode: (given) => {
    const values = given.split(",").map((value) => value.trim())
    return values.every((value) => value !== "") ? Result.succeed(values) : Result.fail("values separated by commas")
  },
})

const decodeNumber =
  (kind: "an integer" | "a number", minimum: number, maximum: number) =>
  (given: string): Result.Result<number, string> => {
    const value = given.trim() === "" ? Number.NaN : Number(given)
    const fits = value >= minimum && value <= maximum && (kind === "a number" || Number.isInteger(value))
    return fits ? Result.succeed(value) : Result.fail(`${kind} between ${minimum} and ${maximum}`)
  }

interface Bounded extends Described {
  readonly minimum: number
  readonly maximum: number
}

export const integer = (spec: Bounded & { readonly defaultValue: number }): OptionSpec<number> => ({
  ...spec,
  shownDefault: String(spec.defaultValue),
  decode: decodeNumber("an integer", spec.minimum, spec.maximum),
})

export const multiple = (
  spec: Bounded & { readonly defaultValue: number; readonly of: number },
): OptionSpec<number> => ({
  ...spec,
  shownDefault: String(spec.defaultValue),
  decode: (given) => {
    const value = decodeNumber("an integer", spec.minimum, spec.maximum)(given)
    return Result.isSuccess(value) && value.success % spec.of === 0
      ? value
      : Result.fail(`a multiple of ${spec.of} between ${spec.minimum} and ${spec.maximum}`)
  },
})

export const optionalInteger = (spec: Bounded & { readonly shownDefault: string }): OptionSpec<number | undefined> => ({
  ...spec,
  defaultValue: undefined,
  decode: decodeNumber("an integer", spec.minimum, spec.maximum),
})

export const optionalNumber = (spec: Bounded & { readonly shownDefault: string }): OptionSpec<number | undefined> => ({
  ...spec,
  defaultValue: undefined,
  decode: decodeNumber("a number", spec.minimum, spec.maximum),
})

export const number = (spec: Bounded & { readonly defaultValue: number }): OptionSpec<number> => ({
  ...spec,
  shownDefault: String(spec.defaultValue),
  decode: decodeNumber("a number", spec.minimum, spec.maximum),
})

/** A number above 0, or `inf`. */
export const rate = (spec: Described & { readonly defaultValue: number }): OptionSpec<number> => ({
  ...spec,
  shownDefault: Number.isFinite(spec.defaultValue) ? String(spec.defaultValue) : "inf",
  decode: (given) => {
    const value = given === "inf" ? Number.POSITIVE_INFINITY : given.trim() === "" ? Number.NaN : Number(given)
    return value > 0 ? Result.succeed(value) : Result.fail("a number above 0, or inf")
  },
})

/** Numbers separated by commas. */
export const numbers = (
  spec: Bounded & { readonly defaultValue: ReadonlyArray<number> },
): OptionSpec<ReadonlyArray<number>> => ({
  ...spec,
  shownDefault: spec.defaultValue.join(","),
  decode: (given) => {
    const values = given.split(",").map(decodeNumber("a number", spec.minimum, spec.maximum))
    const wrong = values.find(Result.isFailure)
    return wrong === undefined
      ? Result.succeed(values.map((value) => Result.getOrThrow(value)))
      : Result.fail(wrong.failure)
  },
})

/** The same, none by default. */
export const numbersOrNone = (
  spec: Bounded & { readonly shownDefault?: string },
): OptionSpec<ReadonlyArray<number>> => ({
  ...numbers({ ...spec, defaultValue: [] }),
  shownDefault: spec.shownDefault ?? "none",
})

export const choice = <const A extends string>(
  spec: Described & { readonly choices: ReadonlyArray<A>; readonly defaultValue: NoInfer<A> },
): OptionSpec<A> => ({
  ...spec,
  shownDefault: spec.defaultValue,
  decode: (given) => {
    const found = spec.choices.find((known) => known === given)
    return found === undefined ? Result.fail(`one of ${spec.choices.join(", ")}`) : Result.succeed(found)
  },
})

/** Some of a few names, separated by commas; none given means all. */
export const choices = <const A extends string>(
  spec: Described & { readonly choices: ReadonlyArray<A>; readonly shownDefault: string },
): OptionSpec<ReadonlyArray<A>> => ({
  ...spec,
  // A flag takes one text: what it can be is in the description.
  choices: undefined,
  defaultValue: spec.choices,
  decode: (given) => {
    const names = given.split(",").map((name) => name.trim())
    const known = names.every((name): name is A => spec.choices.includes(name as A))
    return known ? Result.succeed(names) : Result.fail(`some of ${spec.choices.join(", ")}`)
  },
})

/** Strings as a JSON list, as vLLM takes them, or separated by commas. */
export const jsonList = (
  spec: Described & { readonly defaultValue: ReadonlyArray<string> },
): OptionSpec<ReadonlyArray<string>> => ({
  ...spec,
  shownDefault: JSON.stringify(spec.defaultValue),
  decode: (given) => {
    const values: unknown = given.trimStart().startsWith("[")
      ? parseJson(given)
      : given.split(",").map((value) => value.trim())
    const isList = Array.isArray(values) && values.every((value) => typeof value === "string" && value !== "")
    return isList ? Result.succeed(values as ReadonlyArray<string>) : Result.fail('a JSON list of texts, such as ["*"]')
  },
})

const parseJson = (given: string): unknown => {
  try {
    return JSON.parse(given)
  } catch {
    return undefined
  }
}

/** A number of bytes with its unit: 512MiB, 2GiB, 1500kB; without a unit, bytes. */
export const bytes = (
  spec: Described & { readonly defaultValue: string; readonly minimum: number },
): OptionSpec<number> => ({
  ...spec,
  shownDefault: spec.defaultValue,
  defaultValue: parseBytes(spec.defaultValue)!,
  decode: (given) => {
    const value = parseBytes(given)
    if (value === undefined) return Result.fail("bytes with a unit, such as 512MiB or 2GiB")
    return value >= spec.minimum ? Result.succeed(value) : Result.fail(`at least ${spec.minimum} bytes`)
  },
})

const parseBytes = (given: string): number | undefined => {
  const size = /^\d+$/.test(given) ? Option.some(BigInt(given)) : ByteSize.fromString(given)
  return Option.isSome(size) && size.value <= BigInt(Number.MAX_SAFE_INTEGER) ? Number(size.value) : undefined
}
