import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { runReport, type RunReport } from "@uniprefill/simulator/output/RunReport"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { describe } from "./Describe.ts"
import { fileReader } from "./Files.ts"

/** A run that a worker thread carries out. Plain data. */
export interface SimulationJob {
  readonly name: string
  readonly scenario: Scenario
  readonly folder: string
}

/** Runs a job to its end on the calling thread. */
export const runJob = ({ name, scenario, folder }: SimulationJob): RunReport => {
  const experiment = buildExperiment(withDefaults(scenario), fileReader(folder))
  const simulation = new Simulation(experiment.setup, experiment.workload)
  simulation.advance()
  return runReport(name, describe(experiment), simulation, summarise(simulation, experiment.summary))
}
