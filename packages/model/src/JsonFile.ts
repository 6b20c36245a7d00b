import { Effect, FileSystem, Option, type PlatformError, Schema, SchemaIssue } from "effect"
import { jsonFault } from "./JsonFault.ts"
import { ModelError } from "./ModelError.ts"

/** A whole text file, or none when it does not exist. Fails with `Unreadable`. */
export const readText = (file: string) => readWhole(file, (fileSystem) => fileSystem.readFileString(file))

/** A whole file, or none when it does not exist. Fails with `Unreadable`. */
export const readBytes = (file: string) => readWhole(file, (fileSystem) => fileSystem.readFile(file))

const readWhole = Effect.fnUntraced(function* <A>(
  file: string,
  read: (fileSystem: FileSystem.FileSystem) => Effect.Effect<A, PlatformError.PlatformError>,
) {
  return yield* read(yield* FileSystem.FileSystem).pipe(
    Effect.map(Option.some),
    Effect.catchTag("PlatformError", (error) =>
      error.reason._tag === "NotFound"
        ? Effect.succeed(Option.none<A>())
        : Effect.fail(new ModelError({ reason: "Unreadable", file, field: null, detail: platformFault(error) })),
    ),
  )
})

/** What the system said, where it said something: the platform's own message names its call and the file once more. */
export const platformFault = ({ reason, message }: PlatformError.PlatformError): string =>
  "cause" in reason && reason.cause instanceof Error ? reason.cause.message : message

/** The JSON value of a file, or none when it does not exist. Fails with `Unreadable` or `InvalidJson`, naming the place. */
export const readJson = Effect.fnUntraced(function* (file: string) {
  const text = yield* readText(file)
  return Option.isNone(text) ? Option.none<unknown>() : Option.some(yield* parseJson(file, text.value))
})

/** Fails with `InvalidJson`, naming line and column. */
export const parseJson = (file: string, text: string): Effect.Effect<unknown, ModelError> =>
  Effect.try({
    try: (): unknown => JSON.parse(text),
    catch: () => new ModelError({ reason: "InvalidJson", file, field: null, detail: `not JSON: ${jsonFault(text)}` }),
  })

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

/**
 * Decodes a file's JSON value; keys that the schema does not list are refused when `strict`.
 * Fails with `InvalidField`, naming the field and its value.
 */
export const decodeJson = <S extends Schema.ConstraintDecoder<unknown>>(
  schema: S,
  file: string,
  json: unknown,
  strict = false,
): Effect.Effect<S["Type"], ModelError> =>
  Schema.decodeUnknownEffect(schema, { onExcessProperty: strict ? "error" : "ignore" })(json).pipe(
    Effect.mapError((error) => {
      const { message, path = [] } = formatIssue(error.issue).issues[0]!
      const keys = path.map((key) => String(typeof key === "object" ? key.key : key))
      const value = keys.reduce<unknown>((parent, key) => (parent as Record<string, unknown> | null)?.[key], json)
      const isKnown = !message.includes("excess property")
      const got = value === undefined ? "" : `, got ${JSON.stringify(value).slice(0, 80)}`
      const detail = isKnown ? `${message}${got}` : "there is no such field"
      return new ModelError({ reason: "InvalidField", file, field: keys.join(".") || null, detail })
    }),
  )
