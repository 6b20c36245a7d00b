import { readFile } from "node:fs/promises"
import { Effect } from "effect"
import { parse } from "yaml"
import { UsageError } from "../cli/UsageError.ts"

/** Option values by name, as text. */
export type ConfigValues = Readonly<Record<string, string>>

/**
 * Reads the YAML file of --config (JSON is YAML too): an object whose keys are option names without dashes in front, and whose values are
 * strings, numbers, booleans or lists of such. Fails with a {@link UsageError} that names the file and the key.
 */
export const readConfigFile = (file: string, known: ReadonlyArray<string>): Effect.Effect<ConfigValues, UsageError> =>
  Effect.gen(function* () {
    const refuse = (detail: string) => new UsageError({ message: `${file}: ${detail}` })
    const text = yield* Effect.tryPromise({
      try: () => readFile(file, "utf8"),
      catch: (cause) => refuse(`cannot be read: ${(cause as Error).message}`),
    })
    const parsed = yield* Effect.try({
      try: () => parse(text, { maxAliasCount: 0 }) as unknown,
      catch: (cause) => refuse(`is not YAML: ${(cause as Error).message}`),
    })
    if (typeof parsed !== "object" || parsed === null || Array.isArray(parsed)) {
      return yield* refuse("expected an object of option names and values")
    }
    const values: Record<string, string> = {}
    for (const [key, value] of Object.entries(parsed)) {
      if (!known.includes(key)) {
        return yield* refuse(`${key}: there is no such option; options are ${known.join(", ")}`)
      }
      const scalars: ReadonlyArray<unknown> = Array.isArray(value) ? value : [value]
      if (!scalars.every((scalar) => ["string", "number", "boolean"].includes(typeof scalar))) {
        return yield* refuse(`${key}: expected a string, a number, a boolean or a list of them`)
      }
      values[key] = scalars.join(",")
    }
    return values
  })
