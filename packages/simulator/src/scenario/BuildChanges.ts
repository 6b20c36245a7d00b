import type { Adjustment } from "@uniprefill/scheduler/Driver"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { Change, Slowdown } from "../Change.ts"
import { burst } from "../workload/Burst.ts"
import { parseLengths } from "../workload/LengthText.ts"
import type { Workload } from "../workload/Workload.ts"
import type { ReadText } from "./Build.ts"
import { buildKeep } from "./BuildKeep.ts"
import { policyOf, type PolicyModules } from "./Policies.ts"
import { scenarioDefaults, type FullScenario, type ScenarioChange } from "./Scenario.ts"
import { ScenarioError } from "./ScenarioFields.ts"

/** The changes of a scenario in order of time, and its workload with the requests that they add. */
export interface BuiltChanges {
  readonly changes: ReadonlyArray<Change>
  readonly workload: Workload
}

/** Fails with ScenarioError or RangeError naming the change, by its place from 0, and the field. */
export const buildChanges = (
  scenario: FullScenario,
  schedule: DropSchedule,
  workload: Workload,
  read: ReadText,
  policies: PolicyModules,
): BuiltChanges => {
  let offered = workload
  const changes = scenario.changes.map((change, index): Change => {
    const field = `changes.${index}`
    if (change.burst !== undefined) offered = withBurst(offered, scenario.seed, field, change)
    for (const request of change.abort ?? []) {
      if (request > offered.count)
        throw new ScenarioError(`${field}.abort: there are ${offered.count} requests, not ${request}`)
    }
    return {
      atMicros: change.atMicros,
      adjustment: adjustmentOf(scenario, policies, change),
      keep: change.keep === undefined ? undefined : buildKeep(change.keep, schedule, workload, read),
      abort: (change.abort ?? []).map((request) => request - 1),
      slow: slowdownOf(scenario.replicas, field, change),
    }
  })
  return { changes: changes.sort((a, b) => a.atMicros - b.atMicros), workload: offered }
}

const micros = (milliseconds: number) => Math.round(milliseconds * 1000)

const adjustmentOf = (scenario: FullScenario, policies: PolicyModules, change: ScenarioChange): Adjustment => ({
  ...(change.policy === undefined ? {} : { policy: policyOf({ ...scenario, policy: change.policy }, policies) }),
  ...(change.stepBudgetMs === undefined ? {} : { stepBudgetMicros: micros(change.stepBudgetMs) }),
  ...(change.idleStepBudgetMs === undefined ? {} : { idleStepBudgetMicros: micros(change.idleStepBudgetMs) }),
  ...(change.maxPrefillWaitMs === undefined ? {} : { maxPrefillWaitMicros: micros(change.maxPrefillWaitMs) }),
})

const withBurst = (
  workload: Workload,
  seed: number,
  field: string,
  { atMicros, burst: added }: ScenarioChange,
): Workload => {
  const { requests, promptTokens, outputTokens } = added!
  const defaults = scenarioDefaults.workload
  return burst(workload, {
    atMicros,
    requests,
    prompt: parseLengths(`${field}.burst.promptTokens`, String(promptTokens ?? defaults.promptTokens)),
    output: parseLengths(`${field}.burst.outputTokens`, String(outputTokens ?? defaults.outputTokens)),
    seed,
    stream: field,
  })
}

const slowdownOf = (replicas: number, field: string, { atMicros, slow }: ScenarioChange): Slowdown | undefined => {
  if (slow === undefined) return undefined
  const { replica = null, factor, seconds } = slow
  if (replica !== null && replica >= replicas)
    throw new ScenarioError(`${field}.slow.replica: there are ${replicas} replicas, numbered from 0, not ${replica}`)
  return { replica, factor, untilMicros: atMicros + Math.max(1, Math.round(seconds * 1e6)) }
}
