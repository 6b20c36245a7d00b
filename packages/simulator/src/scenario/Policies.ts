import type { Policy } from "@uniprefill/scheduler/Policy"
import { policyByName, policyNames } from "@uniprefill/scheduler/policies/PolicyByName"
import type { FullScenario } from "./Scenario.ts"
import { ScenarioError } from "./ScenarioFields.ts"

/** Policies that come from modules, by the name that the scenario gives. */
export type PolicyModules = ReadonlyMap<string, Policy>

/** Whether a scenario names a module in place of a policy. */
export const isPolicyModule = (name: string): boolean => /\.[cm]?[jt]s$/.test(name)

export const policyOf = ({ policy: name, engine }: FullScenario, modules: PolicyModules): Policy => {
  const { maxNumBatchedTokens, maxNumSeqs } = engine
  const found =
    modules.get(name) ?? policyByName(name, name === "token-budget" ? { maxNumBatchedTokens, maxNumSeqs } : {})
  if (found !== undefined) return found
  throw new ScenarioError(
    `policy: there is no ${JSON.stringify(name)}; there are ${policyNames.join(", ")}, and modules (.ts, .js)`,
  )
}
