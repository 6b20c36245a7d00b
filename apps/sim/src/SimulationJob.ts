import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { runReport, type RunReport } from "@uniprefill/simulator/output/RunReport"
import type { Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { describe } from "./Describe.ts"
import { prepare } from "./Prepare.ts"

/** A run that a worker thread carries out. Plain data. */
export interface SimulationJob {
  readonly name: string
  readonly scenario: Scenario
  readonly folder: string
}

/** Runs a job to its end on the calling thread. */
export const runJob = async ({ name, scenario, folder }: SimulationJob): Promise<RunReport> => {
  const experiment = await prepare({ scenario, folder })
  const simulation = new Simulation(experiment.setup, experiment.workload)
  simulation.advance()
  return runReport(name, describe(experiment), experiment, simulation, summarise(simulation, experiment.summary))
}
