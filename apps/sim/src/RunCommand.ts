import { writeFileSync } from "node:fs"
import { benchTable, lengthTable } from "@uniprefill/simulator/output/Table"
import { resultJson } from "@uniprefill/simulator/output/Json"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { Option } from "effect"
import { describe, reproduction } from "./Describe.ts"
import { drive } from "./Drive.ts"
import { fileReader } from "./Files.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"

export interface RunOutputs {
  readonly json: Option.Option<string>
}

/** `uniprefill-sim run`. */
export const run = async ({ scenario, folder }: ScenarioSource, outputs: RunOutputs): Promise<void> => {
  const experiment = buildExperiment(withDefaults(scenario), fileReader(folder))
  const simulation = new Simulation(experiment.setup, experiment.workload)
  for (const line of describe(experiment)) console.log(line)
  const seconds = await drive(simulation, "simulating")
  const summary = summarise(simulation, experiment.summary)
  console.log()
  if (!summary.complete) console.log(partial(simulation))
  console.log(benchTable(summary))
  console.log()
  console.log(lengthTable(summary.byLength))
  console.log()
  console.log(`${(simulation.ended / seconds).toFixed(0)} simulated requests/s; ${reproduction(experiment)}`)
  if (Option.isSome(outputs.json)) {
    writeFileSync(
      outputs.json.value,
      `${JSON.stringify(resultJson(summary, { scenario: experiment.scenario, assumptions: experiment.workload.assumptions }), null, 2)}\n`,
    )
  }
}

const partial = (simulation: Simulation): string =>
  `PARTIAL RESULT: ended at ${(simulation.now / 1e6).toFixed(1)} s of simulated time, ` +
  `${simulation.ended} of ${simulation.workload.count} requests done.`
