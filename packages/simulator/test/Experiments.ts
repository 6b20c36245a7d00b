import { buildExperiment, type Experiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation, type Observer } from "@uniprefill/simulator/Simulation"

/** Scenarios of tests name no files. */
export const noFiles = (file: string): never => {
  throw new Error(`${file} is not read`)
}

export const experimentOf = (scenario: Scenario): Experiment => buildExperiment(withDefaults(scenario), noFiles)

/** A simulation run to its end. */
export const simulated = (scenario: Scenario, observer?: Observer): Simulation => {
  const { setup, workload } = experimentOf(scenario)
  const simulation = new Simulation(setup, workload, observer)
  simulation.advance()
  return simulation
}

/** Host times of zero: a step takes what the device takes. */
export const noHost = {
  stepMicros: 0,
  launchMicros: 0,
  itemMicros: 0,
  readBackMicros: 0,
  admissionMicros: 0,
  tokenizeMicrosPerToken: 0,
}
