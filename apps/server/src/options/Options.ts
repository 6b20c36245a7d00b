import { Effect, Option, Result } from "effect"
import { Flag } from "effect/cli"
import { type ConfigValues, readConfigFile } from "./ConfigFile.ts"
import { UsageError } from "../cli/UsageError.ts"

/**
 * One option of the command line. Its value comes from the flag, else from the environment (`--max-model-len` is
 * UNIPREFILL_MAX_MODEL_LEN), else from the file that --config names, else it is the default.
 */
export interface OptionSpec<A> {
  readonly metavar: string
  readonly description: string
  /** The default as help shows it. */
  readonly shownDefault: string | undefined
  /** All that it can be, where that is a few words: help and shell completion list them. */
  readonly choices?: ReadonlyArray<string> | undefined
  readonly decode: (text: string) => Result.Result<A, string>
  readonly defaultValue: A
}

export type OptionTable = Readonly<Record<string, OptionSpec<any>>>

export type OptionValues<Table extends OptionTable> = {
  readonly [Name in keyof Table]: Table[Name] extends OptionSpec<infer A> ? A : never
}

export type OptionFlags<Table extends OptionTable> = {
  readonly [Name in keyof Table | "config"]: Flag.Flag<Option.Option<string>>
}

export type GivenFlags<Table extends OptionTable> = {
  readonly [Name in keyof Table | "config"]: Option.Option<string>
}

const configFlag = Flag.String("config").pipe(
  Flag.withMetavar("FILE"),
  Flag.withDescription("YAML file with options by name, such as port: 9000. Flags and environment go first."),
  Flag.optional,
)

/** The flags of a table and --config. All are texts here: wherever a value comes from, the same decoder reads it. */
export const flagsOf = <Table extends OptionTable>(table: Table): OptionFlags<Table> => {
  const flags = Object.entries(table).map(([name, { metavar, description, shownDefault, choices }]) => {
    const suffix = shownDefault === undefined ? "" : ` (default: ${shownDefault})`
    const flag: Flag.Flag<string> = choices === undefined ? Flag.String(name) : Flag.Literals(name, choices)
    return [name, flag.pipe(Flag.withMetavar(metavar), Flag.withDescription(description + suffix), Flag.optional)]
  })
  return Object.fromEntries([...flags, ["config", configFlag]]) as OptionFlags<Table>
}

/** UNIPREFILL_MAX_MODEL_LEN of `max-model-len`. */
export const environmentName = (name: string): string => `UNIPREFILL_${name.toUpperCase().replaceAll("-", "_")}`

/** The values of a table's options. `allNames`: what a config file may hold, so that one serves every command. */
export const resolveOptions = <Table extends OptionTable>(
  table: Table,
  flags: GivenFlags<Table>,
  environment: Readonly<Record<string, string | undefined>>,
  allNames: ReadonlyArray<string>,
): Effect.Effect<OptionValues<Table>, UsageError> =>
  Effect.gen(function* () {
    const file = Option.getOrUndefined(flags.config) ?? environment[environmentName("config")]
    const config: ConfigValues = file === undefined ? {} : yield* readConfigFile(file, allNames)
    const values: Record<string, unknown> = {}
    for (const [name, spec] of Object.entries(table)) {
      const given = find(name, flags, environment, config, file)
      if (given === undefined) {
        values[name] = spec.defaultValue
        continue
      }
      const decoded = spec.decode(given.text)
      if (Result.isFailure(decoded)) {
        const message = `${given.source}: expected ${decoded.failure}, got ${JSON.stringify(given.text)}`
        return yield* new UsageError({ message })
      }
      values[name] = decoded.success
    }
    return values as OptionValues<Table>
  })

const find = (
  name: string,
  flags: Readonly<Record<string, Option.Option<string>>>,
  environment: Readonly<Record<string, string | undefined>>,
  config: ConfigValues,
  file: string | undefined,
): { readonly text: string; readonly source: string } | undefined => {
  const flag = flags[name]
  if (flag !== undefined && Option.isSome(flag)) return { text: flag.value, source: `--${name}` }
  const variable = environmentName(name)
  const fromEnvironment = environment[variable]
  // An empty variable is how shells and service managers unset one.
  if (fromEnvironment !== undefined && fromEnvironment !== "") return { text: fromEnvironment, source: variable }
  const fromFile = config[name]
  return fromFile === undefined ? undefined : { text: fromFile, source: `${file}: ${name}` }
}
