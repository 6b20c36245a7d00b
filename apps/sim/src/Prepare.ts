import { buildExperiment, type Experiment, type ReadText } from "@uniprefill/simulator/scenario/Build"
import { isPolicyModule } from "@uniprefill/simulator/scenario/Policies"
import { withDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { fileReader } from "./Files.ts"
import { readPolicy } from "./PolicyFile.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"

/** A scenario with everything that it names, loaded. */
export const prepare = async (
  { scenario, folder }: ScenarioSource,
  read: ReadText = fileReader(folder),
): Promise<Experiment> => {
  const full = withDefaults(scenario)
  const { policy } = full
  const modules = isPolicyModule(policy) ? new Map([[policy, await readPolicy(folder, policy)]]) : new Map()
  return buildExperiment(full, read, modules)
}
