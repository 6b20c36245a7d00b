import { readFileSync } from "node:fs"
import type { Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { decodeScenario, flagValue, override, scenarioFields } from "@uniprefill/simulator/scenario/ScenarioFields"
import { Option } from "effect"
import { Argument, Flag } from "effect/cli"
import { parse } from "yaml"
import { folderOf } from "./Files.ts"
import { UsageError } from "./UsageError.ts"

/** A scenario and where the files that it names are looked up. */
export interface ScenarioSource {
  readonly scenario: Scenario
  readonly folder: string
}

/** A flag for every field of a scenario. */
export const scenarioFlags = Object.fromEntries(
  scenarioFields.map(({ path, flag, description, defaultValue, choices }) => [
    path,
    Flag.String(flag).pipe(
      Flag.withMetavar("VALUE"),
      Flag.withDescription(
        `${description}${shownDefault(defaultValue)}${choices === null ? "" : ` (choices: ${choices.join(", ")})`}`,
      ),
      Flag.optional,
    ),
  ]),
)

export const scenarioArgument = Argument.String("scenario").pipe(
  Argument.withDescription("Scenario file, .yaml or .json; without one, what the flags say"),
  Argument.optional,
)

function shownDefault(value: unknown): string {
  return value === "" ? "" : ` (default: ${String(value)})`
}

type GivenFlags = Readonly<Record<string, unknown>>

/** The file's scenario with the flags that were given. Fails with ScenarioError or UsageError. */
export const readScenario = (file: Option.Option<string>, flags: GivenFlags, base: Scenario = {}): ScenarioSource => {
  const scenario = Option.isNone(file) ? base : decodeScenario(file.value, parseFile(file.value))
  const given: Record<string, unknown> = {}
  for (const { path, defaultValue } of scenarioFields) {
    const value = flags[path] as Option.Option<string> | undefined
    if (value === undefined || Option.isNone(value)) continue
    given[path] =
      typeof defaultValue === "string" && path !== "keep" && path !== "sloKeep" && !path.endsWith("Tokens")
        ? value.value
        : flagValue(value.value)
  }
  const folder = Option.isNone(file) ? process.cwd() : folderOf(file.value)
  /** A fault in what a flag says is the flag's. */
  const placeOf = (path: string) => {
    const field = scenarioFields.find((one) => path === one.path || path.startsWith(`${one.path}.`))
    return field !== undefined && field.path in given ? `--${field.flag}` : `flags: ${path}`
  }
  return { scenario: override(scenario, given, "flags", placeOf), folder }
}

/** "… at line 2, column 1:" and the lines themselves below it; the first line of that says all. */
const yamlFault = ({ message }: Error): string => message.split("\n")[0]!.replace(/:$/, "")

const parseFile = (file: string): unknown => {
  let text: string
  try {
    text = readFileSync(file, "utf8")
  } catch (error) {
    throw new UsageError(`${file}: cannot be read: ${(error as Error).message}`)
  }
  try {
    // JSON is YAML too.
    return parse(text)
  } catch (error) {
    throw new UsageError(`${file}: ${yamlFault(error as Error)}`)
  }
}
