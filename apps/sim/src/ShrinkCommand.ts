import { writeFileSync } from "node:fs"
import { setImmediate } from "node:timers/promises"
import { checkedRun } from "@uniprefill/simulator/explore/CheckedRun"
import { shrink as shrinkScenario } from "@uniprefill/simulator/explore/Shrink"
import { swarmScenario } from "@uniprefill/simulator/explore/Swarm"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { Option } from "effect"
import { control } from "./Drive.ts"
import { fileReader } from "./Files.ts"
import { startProgress } from "./Progress.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"

export interface ShrinkOptions {
  /** Random scenarios to check in place of the given one; 0 for none. */
  readonly swarm: number
  readonly out: Option.Option<string>
}

/**
 * `uniprefill-sim shrink`: runs a scenario with every invariant checked after every instant; one that breaks something is made
 * as small as it still breaks the same thing, and printed. With --swarm, random scenarios are checked until one breaks.
 */
export const shrink = async ({ scenario, folder }: ScenarioSource, options: ShrinkOptions): Promise<void> => {
  const check = (one: Scenario) => checkedRun(buildExperiment(withDefaults(one), fileReader(folder)))
  const candidates = options.swarm > 0 ? swarm(scenario.seed ?? 1, options.swarm) : [scenario]
  const progress = startProgress("checking", "scenarios")
  let checked = 0
  for (const candidate of candidates) {
    if (control.interrupted) break
    const violation = check(candidate)
    progress.update(++checked, options.swarm || 1)
    await setImmediate()
    if (violation === null) continue
    progress.end()
    console.log(`${candidate.name ?? "The scenario"} breaks: ${violation.detail}`)
    const { scenario: small, runs } = shrinkScenario(candidate, (one) => check(one)?.kind ?? null)
    const text = JSON.stringify({ format: "uniprefill-scenario", version: 1, ...small }, null, 2)
    console.log(`After ${runs} runs, the smallest scenario found that does (seed ${small.seed ?? 1}):\n${text}`)
    if (Option.isSome(options.out)) writeFileSync(options.out.value, `${text}\n`)
    process.exitCode = 1
    return
  }
  progress.end()
  if (control.interrupted) console.log(`PARTIAL RESULT: ended after ${checked} of ${options.swarm || 1} scenarios.`)
  console.log(`${checked} ${checked === 1 ? "scenario" : "scenarios"} checked: no invariant broke.`)
}

function* swarm(first: number, count: number): Generator<Scenario> {
  for (let seed = first; seed < first + count; seed++) yield swarmScenario(seed)
}
