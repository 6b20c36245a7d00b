import type { Scenario } from "../scenario/Scenario.ts"
import { override, scenarioFields } from "../scenario/ScenarioFields.ts"

/** Says what a scenario breaks, as a text that is the same for the same fault; null when it breaks nothing. */
export type FaultOf = (scenario: Scenario) => string | null

export interface Shrunk {
  readonly scenario: Scenario
  readonly runs: number
}

/**
 * Makes a failing scenario smaller while it fails in the same way: fewer and shorter requests, then every field that can be
 * left at its default is. Ends when no single step helps, or after `maxRuns` runs.
 */
export const shrink = (failing: Scenario, faultOf: FaultOf, maxRuns = 400): Shrunk => {
  const fault = faultOf(failing)
  if (fault === null) return { scenario: failing, runs: 1 }
  let best = failing
  let runs = 1
  const accept = (candidate: Scenario): boolean => {
    if (runs >= maxRuns) return false
    runs++
    if (faultIfAny(faultOf, candidate) !== fault) return false
    best = candidate
    return true
  }
  const step = (): boolean => {
    for (const candidate of candidates(best)) if (accept(candidate)) return true
    return false
  }
  while (step()) {}
  return { scenario: best, runs }
}

/** A scenario that cannot be built breaks nothing. */
const faultIfAny = (faultOf: FaultOf, candidate: Scenario): string | null => {
  try {
    return faultOf(candidate)
  } catch {
    return null
  }
}

function* candidates(scenario: Scenario): Generator<Scenario> {
  const set = (path: string, value: unknown) => override(scenario, { [path]: value }, "shrink")
  const requests = scenario.workload?.requests ?? 0
  if (requests > 1) {
    yield set("workload.requests", Math.ceil(requests / 2))
    yield set("workload.requests", requests - 1)
  }
  for (const path of ["workload.promptTokens", "workload.outputTokens"] as const) {
    const text = scenario.workload?.[path === "workload.promptTokens" ? "promptTokens" : "outputTokens"]
    const high = typeof text === "number" ? text : Number(/^uniform:1-(\d+)$/.exec(text ?? "")?.[1] ?? 0)
    if (high > 1) {
      if (text !== high) yield set(path, high)
      yield set(path, Math.ceil(high / 2))
    }
  }
  for (const path of ["replicas", "engine.slots"]) {
    const value = path === "replicas" ? scenario.replicas : scenario.engine?.slots
    if (value !== undefined && value > 1) yield set(path, Math.ceil(value / 2))
  }
  for (const { path } of scenarioFields) {
    const without = withoutField(scenario, path)
    if (without !== null) yield without
  }
}

/** Null where the field is not set, or names the run's identity. */
const withoutField = (scenario: Scenario, path: string): Scenario | null => {
  const [section, key] = path.split(".") as [keyof Scenario, string | undefined]
  if (scenario[section] === undefined || section === "seed" || section === "name" || path === "workload.requests")
    return null
  if (key === undefined) {
    const { [section]: _removed, ...rest } = scenario
    return rest
  }
  const fields = scenario[section] as Record<string, unknown>
  if (fields[key] === undefined) return null
  const { [key]: _removed, ...rest } = fields
  return { ...scenario, [section]: rest }
}
