import { Schema, SchemaIssue, type SchemaAST } from "effect"
import { Scenario, scenarioDefaults } from "./Scenario.ts"

/** One field of a scenario: where it stands, and what the command line calls it. */
export interface ScenarioField {
  /** `engine.stepBudgetMs` */
  readonly path: string
  /** `step-budget-ms`; unique among all fields. */
  readonly flag: string
  readonly description: string
  readonly defaultValue: unknown
  /** The only values there are, for a field that has no others. */
  readonly choices: ReadonlyArray<string> | null
}

const hidden = new Set(["format", "version", "changes", "sweep", "variants"])

/** Names that say too little, or mean two things, without their section. */
const flagNames: Readonly<Record<string, string>> = {
  "workload.rate": "rateScale",
  "host.stepMicros": "hostStepMicros",
  "slo.ttftMs": "sloTtftMs",
  "slo.tpotMs": "sloTpotMs",
}

const choicesOf = (ast: SchemaAST.AST): ReadonlyArray<string> | null =>
  ast._tag === "Union" && ast.types.every((type) => type._tag === "Literal")
    ? ast.types.map((type) => String(type.literal))
    : null

const kebab = (name: string): string => name.replaceAll(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)

const descriptionOf = (ast: SchemaAST.AST): string => {
  const found =
    ast.annotations?.["description"] ??
    (ast as { checks?: ReadonlyArray<{ annotations?: Record<string, unknown> }> }).checks?.at(-1)?.annotations?.[
      "description"
    ]
  return typeof found === "string" ? found : ""
}

/** Every field that a flag can set, section by section. */
export const scenarioFields: ReadonlyArray<ScenarioField> = Object.entries(Scenario.fields).flatMap(
  ([name, schema]) => {
    if (hidden.has(name)) return []
    const inner = (schema as unknown as { readonly schema?: { readonly fields?: Record<string, Schema.Top> } }).schema
      ?.fields
    if (inner === undefined) return [fieldOf(name, name, schema)]
    return Object.entries(inner).map(([key, one]) => fieldOf(`${name}.${key}`, key, one))
  },
)

function fieldOf(path: string, name: string, schema: Schema.Top): ScenarioField {
  const defaultValue = path
    .split(".")
    .reduce<unknown>((at, key) => (at as Record<string, unknown>)[key], scenarioDefaults)
  return {
    path,
    flag: kebab(flagNames[path] ?? name),
    description: descriptionOf(schema.ast),
    defaultValue,
    choices: choicesOf(schema.ast),
  }
}

export class ScenarioError extends Error {
  constructor(message: string) {
    super(message)
    this.name = "ScenarioError"
  }
}

const formatIssue = SchemaIssue.makeFormatterStandardSchemaV1()

/** What is wrong with a field. */
export interface FieldFault {
  /** `engine.slots`; empty for the scenario as a whole. */
  readonly path: string
  readonly detail: string
}

/** Checks a parsed scenario. Fails with ScenarioError naming the file, the field and its value, or what `placeOf` calls them. */
export const decodeScenario = (
  file: string,
  value: unknown,
  placeOf = (path: string) => `${file}: ${path}`,
): Scenario => {
  const { scenario, faults } = checkScenario(value)
  if (scenario !== null) return scenario
  const { path, detail } = faults[0]!
  const isNamed = path === "" || detail.startsWith("there is no field")
  throw new ScenarioError(`${isNamed ? file : placeOf(path)}: ${detail}`)
}

/** A parsed scenario, or everything that is wrong with it. */
export const checkScenario = (
  value: unknown,
): { readonly scenario: Scenario | null; readonly faults: ReadonlyArray<FieldFault> } => {
  const decoded = Schema.decodeUnknownExit(Scenario, { onExcessProperty: "error", errors: "all" })(value)
  if (decoded._tag === "Success") return { scenario: decoded.value, faults: [] }
  const failure = decoded.cause.reasons.find((reason) => reason._tag === "Fail")
  if (failure === undefined) return { scenario: null, faults: [{ path: "", detail: "cannot be read" }] }
  return { scenario: null, faults: formatIssue(failure.error.issue).issues.map((issue) => faultOf(value, issue)) }
}

type Issue = ReturnType<typeof formatIssue>["issues"][number]

const faultOf = (value: unknown, { message, path = [] }: Issue): FieldFault => {
  const keys = path.map((key) => String(typeof key === "object" ? key.key : key))
  const field = keys.join(".")
  if (message.includes("excess property")) return { path: field, detail: `there is no field ${field}${nearest(field)}` }
  const found = keys.reduce<unknown>((at, key) => (at as Record<string, unknown> | null | undefined)?.[key], value)
  return {
    path: field,
    detail: `${message}${found === undefined ? "" : `, got ${JSON.stringify(found).slice(0, 80)}`}`,
  }
}

/** The scenario with fields set by path, `{"engine.slots": 64}`; checked like a file. */
export const override = (
  scenario: Scenario,
  values: Readonly<Record<string, unknown>>,
  source: string,
  placeOf?: (path: string) => string,
): Scenario => {
  const changed: Record<string, unknown> = { ...scenario }
  for (const [path, value] of Object.entries(values)) {
    if (path !== "changes" && !scenarioFields.some((one) => one.path === path)) {
      throw new ScenarioError(`${source}: there is no field ${path}${nearest(path)}`)
    }
    const [section, key] = path.split(".") as [string, string | undefined]
    if (key === undefined) changed[section] = value
    else changed[section] = { ...(changed[section] as object | undefined), [key]: value }
  }
  return decodeScenario(source, changed, placeOf)
}

const nearest = (path: string): string => {
  const name = path.split(".").at(-1)!.toLowerCase()
  const like = scenarioFields.filter((one) => one.path.toLowerCase().includes(name))
  return like.length === 0 ? "" : `; did you mean ${like.map((one) => one.path).join(" or ")}?`
}

/** A flag's text as the value that a file would hold: a number, a truth value, a list of numbers, or the text itself. */
export const flagValue = (text: string): unknown => {
  const trimmed = text.trim()
  if (trimmed === "true" || trimmed === "false") return trimmed === "true"
  if (/^[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$/i.test(trimmed)) return Number(trimmed)
  if (/^[\d.]+(,[\d.]+)+$/.test(trimmed)) return trimmed.split(",").map(Number)
  return text
}

/** Fails with ScenarioError naming the file. */
export const parseJson = (file: string, text: string): unknown => {
  try {
    return JSON.parse(text)
  } catch (error) {
    throw new ScenarioError(`${file}: not JSON: ${(error as Error).message}`)
  }
}
