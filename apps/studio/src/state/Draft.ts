import type { ScenarioChange } from "@uniprefill/simulator/scenario/Scenario"

/** A scenario while it is being made: the fields that say something, by path, and its changes. */
export interface Draft {
  readonly values: Readonly<Record<string, unknown>>
  readonly changes: ReadonlyArray<ScenarioChange>
}

/** What the page begins with. */
export const firstDraft: Draft = {
  values: {
    name: "A chat trace on one H200",
    "workload.trace": "mooncake-conversation-slice",
    "workload.rate": 0.5,
  },
  changes: [],
}

const sections = new Set(["workload", "engine", "host", "faults", "slo"])

/** The scenario as a file holds it. */
export const scenarioOf = ({ values, changes }: Draft): Record<string, unknown> => {
  const scenario: Record<string, unknown> = {}
  for (const [path, value] of Object.entries(values)) {
    const [section, key] = path.split(".") as [string, string | undefined]
    if (key === undefined) scenario[section] = value
    else scenario[section] = { ...(scenario[section] as object | undefined), [key]: value }
  }
  return changes.length === 0 ? scenario : { ...scenario, changes }
}

/** The draft of a scenario that was read; what it says of sweeps and variants is not for this page. */
export const draftOf = (scenario: unknown): Draft => {
  const values: Record<string, unknown> = {}
  let changes: ReadonlyArray<ScenarioChange> = []
  for (const [key, value] of Object.entries(scenario as object)) {
    if (["format", "version", "sweep", "variants"].includes(key)) continue
    if (key === "changes") changes = value as ReadonlyArray<ScenarioChange>
    else if (sections.has(key))
      for (const [inner, one] of Object.entries(value as object)) values[`${key}.${inner}`] = one
    else values[key] = value
  }
  return { values, changes }
}

export const withValue = ({ values, changes }: Draft, path: string, value: unknown): Draft => {
  const { [path]: _, ...others } = values
  return { changes, values: value === undefined ? others : { ...others, [path]: value } }
}

/** Files that a draft names and the page was not given. */
export const missingFiles = (
  { values, changes }: Draft,
  files: Readonly<Record<string, Blob>>,
): ReadonlyArray<string> => {
  const named = ["workload.trace", "calibration", "schedule", "keep", "sloKeep", "model"].map((path) => values[path])
  return [...named, ...changes.map((change) => change.keep)].filter(
    (name): name is string =>
      typeof name === "string" && /\.(jsonl|json|csv)(\.gz)?$/.test(name) && files[name] === undefined,
  )
}

/** What a change does, in words. */
export const changeText = (change: ScenarioChange): string => {
  const { policy, stepBudgetMs, idleStepBudgetMs, maxPrefillWaitMs, keep, abort, burst, slow } = change
  const parts = [
    policy === undefined ? "" : `policy ${policy}`,
    stepBudgetMs === undefined ? "" : `step budget ${stepBudgetMs} ms`,
    idleStepBudgetMs === undefined ? "" : `idle step budget ${idleStepBudgetMs} ms`,
    maxPrefillWaitMs === undefined ? "" : `prefill waits at most ${maxPrefillWaitMs} ms`,
    keep === undefined ? "" : `keep ${Array.isArray(keep) ? keep.join(", ") : String(keep)}`,
    abort === undefined ? "" : `abort request ${abort.join(", ")}`,
    burst === undefined ? "" : `a burst of ${burst.requests} requests`,
    slow === undefined
      ? ""
      : `${slow.replica === undefined ? "all devices" : `replica ${slow.replica}`} ${slow.factor}× slower for ${slow.seconds} s`,
  ]
  return parts.filter(Boolean).join(", ")
}
