import { fcfs, type Policy } from "@uniprefill/scheduler/Policy"
import { ScenarioError } from "./ScenarioFields.ts"

/** Policies by name. */
export const policies: ReadonlyMap<string, Policy> = new Map([fcfs].map((policy) => [policy.name, policy]))

export const policyNamed = (name: string): Policy => {
  const policy = policies.get(name)
  if (policy !== undefined) return policy
  throw new ScenarioError(`policy: there is no ${JSON.stringify(name)}; there are ${[...policies.keys()].join(", ")}`)
}
