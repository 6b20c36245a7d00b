import { Result, Schema, SchemaIssue } from "effect"
import { isList } from "./Field.ts"
import { cut } from "./Text.ts"

/** A request that cannot be served as asked; becomes a 400. */
export class InvalidRequest extends Schema.TaggedError<InvalidRequest>()("InvalidRequest", {
  /** The field at fault, `stop[2]` or `uniprefill.p`; null when it is the body as a whole. */
  param: Schema.NullOr(Schema.String),
  /** Names the field, what was expected and what came. */
  message: Schema.String,
}) {}

const shownChars = 40

/** A value in an error message: short, whatever was sent. */
const show = (value: unknown): string => {
  if (value === undefined) return "nothing"
  if (typeof value === "string") {
    return JSON.stringify(value.length > shownChars ? `${cut(value, shownChars)}…` : value)
  }
  if (isList(value)) return `a list of ${value.length}`
  if (typeof value === "bigint") return String(value)
  if (typeof value === "object" && value !== null) return "an object"
  return JSON.stringify(value) ?? typeof value
}

type Path = ReadonlyArray<PropertyKey | { readonly key: PropertyKey }>

const keyOf = (step: Path[number]): PropertyKey => (typeof step === "object" ? step.key : step)

const paramOf = (path: Path): string => {
  let param = ""
  for (const step of path) {
    const key = keyOf(step)
    if (typeof key === "number") param += `[${key}]`
    else param += param === "" ? String(key) : `.${String(key)}`
  }
  return cut(param, 256)
}

const valueAt = (input: unknown, path: Path): unknown => {
  let value = input
  for (const step of path) {
    if (typeof value !== "object" || value === null || !Object.hasOwn(value, keyOf(step))) return undefined
    value = (value as Record<PropertyKey, unknown>)[keyOf(step)]
  }
  return value
}

const formatter = SchemaIssue.makeFormatterStandardSchemaV1()

/** What each API calls its input. */
const inputs = [
  ["prompt", "/v1/completions"],
  ["messages", "/v1/chat/completions"],
  ["input", "/v1/responses"],
] as const

export type InputName = (typeof inputs)[number][0]

/** For who sends one API's request to another. */
const otherApi = (input: unknown): string => {
  const given = inputs.find(([name]) => {
    const value = valueAt(input, [name])
    // The input of every API is text or a list: an object may be something else of that name.
    return typeof value === "string" || Array.isArray(value)
  })
  return given === undefined ? "" : `; the path that takes ${given[0]} is ${given[1]}`
}

const explain = (issue: SchemaIssue.Issue, input: unknown, own: InputName | undefined): InvalidRequest => {
  const first = formatter(issue).issues[0]!
  const path = first.path ?? []
  const text = first.message.replace(" | null", "")
  const expected = text.charAt(0).toLowerCase() + text.slice(1)
  if (path.length === 0) {
    return new InvalidRequest({ param: null, message: `request body: ${expected}, got ${show(input)}` })
  }
  const param = paramOf(path)
  const message =
    text === "Missing key"
      ? `${param} is required${param === own ? otherApi(input) : ""}`
      : `${param}: ${expected}, got ${show(valueAt(input, path))}`
  return new InvalidRequest({ param, message })
}

export interface Decoded<A> {
  readonly value: A
  /** Fields that the schema does not know, by path; they have no effect. */
  readonly unknownFields: ReadonlyArray<string>
}

const structOf = (schema: unknown): Record<string, unknown> | undefined => {
  if (typeof schema !== "object" && typeof schema !== "function") return undefined
  const node = schema as { fields?: Record<string, unknown>; schema?: unknown; members?: ReadonlyArray<unknown> }
  if (node.fields !== undefined) return node.fields
  if (node.members !== undefined) return node.members.map(structOf).find((fields) => fields !== undefined)
  return node.schema === undefined ? undefined : structOf(node.schema)
}

const collectUnknown = (fields: Record<string, unknown>, input: object, prefix: string, into: Array<string>): void => {
  for (const [name, value] of Object.entries(input)) {
    if (!Object.hasOwn(fields, name)) {
      into.push(`${prefix}${cut(name, 64)}`)
      continue
    }
    const nested = structOf(fields[name])
    if (nested !== undefined && typeof value === "object" && value !== null && !isList(value)) {
      collectUnknown(nested, value, `${prefix}${name}.`, into)
    }
  }
}

/**
 * Checks parsed JSON against a struct schema. Fields it does not name are accepted and listed. `own` is what an API calls its
 * input: who leaves it out and sends another's is told where that belongs.
 */
export const decodeRequest =
  <Fields extends Schema.Struct.Fields>(
    schema: Schema.Struct<Fields> & Schema.ConstraintDecoder<unknown>,
    own?: InputName,
  ) =>
  (input: unknown): Result.Result<Decoded<Schema.Struct<Fields>["Type"]>, InvalidRequest> => {
    const decoded = Schema.decodeUnknownResult(schema)(input)
    if (Result.isFailure(decoded)) return Result.fail(explain(decoded.failure.issue, input, own))
    const unknownFields: Array<string> = []
    collectUnknown(schema.fields, input as object, "", unknownFields)
    return Result.succeed({ value: decoded.success, unknownFields })
  }
