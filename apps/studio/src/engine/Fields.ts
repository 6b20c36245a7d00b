import { policyNames } from "@uniprefill/scheduler/policies/PolicyByName"
import { devices } from "@uniprefill/simulator/device/Devices"
import { modelPresets } from "@uniprefill/simulator/model/ModelPresets"
import { Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { scenarioFields } from "@uniprefill/simulator/scenario/ScenarioFields"
import { Schema } from "effect"
import type { FieldControl, FieldSpec } from "../protocol/Protocol.ts"
import { builtInTrace } from "./Inputs.ts"

/** What of a JSON schema is read here. */
interface Node {
  readonly type?: string
  readonly enum?: ReadonlyArray<string | number>
  readonly minimum?: number
  readonly exclusiveMinimum?: number
  readonly maximum?: number
  readonly anyOf?: ReadonlyArray<Node>
  readonly properties?: Readonly<Record<string, Node>>
}

/** Names that there are, for fields that also take others. */
const knownNames: Readonly<Record<string, () => ReadonlyArray<string>>> = {
  model: () => [...modelPresets.keys()],
  device: () => [...devices.keys()],
  schedule: () => ["preset", "off"],
  keep: () => ["paper"],
  sloKeep: () => ["measured"],
  policy: () => policyNames,
  "workload.trace": () => [builtInTrace],
  "workload.maxTokens": () => ["true-length"],
}

/** Units at the end of field names, and how they are written. */
const units: ReadonlyArray<readonly [ending: string, unit: string]> = [
  ["MicrosPerToken", "µs a token"],
  ["Micros", "µs"],
  ["Ms", "ms"],
  ["PerSecond", "a second"],
  ["Seconds", "s"],
  ["Second", "s"],
  ["Tokens", "tokens"],
]

/** Every field of a scenario, made from its schema: a new one appears in the form by itself. */
export const fieldSpecs = (): ReadonlyArray<FieldSpec> => {
  const { schema } = Schema.toJsonSchemaDocument(Scenario) as unknown as { readonly schema: Node }
  return scenarioFields.map(({ path, description, defaultValue }): FieldSpec => {
    const keys = path.split(".")
    const node = keys.reduce<Node>((at, key) => at.properties![key]!, schema)
    const [label, unit] = labelOf(keys.at(-1)!)
    const section = keys.length === 1 ? "" : keys[0]!
    return { path, section, label, unit, description, defaultValue, control: controlOf(path, node, defaultValue) }
  })
}

const controlOf = (path: string, node: Node, defaultValue: unknown): FieldControl => {
  if (node.enum !== undefined) return { kind: "choice", values: node.enum }
  if (node.type === "boolean") return { kind: "flag" }
  if ((node.type === "number" || node.type === "integer") && typeof defaultValue === "number") {
    const { maximum = Number.MAX_SAFE_INTEGER } = node
    return {
      kind: "number",
      integer: node.type === "integer",
      minimum: node.minimum ?? node.exclusiveMinimum ?? null,
      maximum: maximum >= Number.MAX_SAFE_INTEGER ? null : maximum,
    }
  }
  return { kind: "text", known: knownNames[path]?.() ?? [] }
}

/** `stepBudgetMs` → Step budget, ms. */
const labelOf = (name: string): readonly [label: string, unit: string] => {
  const found = units.find(([ending]) => name.endsWith(ending) && name.length > ending.length)
  // Tokens are what the field is about, not what it is measured in.
  const stem = found === undefined || found[1] === "tokens" ? name : name.slice(0, -found[0].length)
  const words = stem.replaceAll(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
  const label = `${words[0]!.toUpperCase()}${words.slice(1)}`.replace(/\b(gpu|slo|ttft|tpot|cv)\b/i, (short) =>
    short.toUpperCase(),
  )
  return [label, found?.[1] ?? ""]
}
