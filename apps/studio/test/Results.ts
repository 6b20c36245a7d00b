import type { Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { experimentOf } from "@uniprefill/studio/engine/Scenarios"
import { SimulatedRun } from "@uniprefill/studio/engine/SimulatedRun"
import type { RunResult } from "@uniprefill/studio/protocol/Protocol"

/** A scenario run as a worker of the page runs it. */
export const simulatedRun = async (scenario: Scenario): Promise<readonly [SimulatedRun, RunResult]> => {
  const run = new SimulatedRun(await experimentOf(scenario, {}))
  return [
    run,
    await run.run(
      () => false,
      () => {},
    ),
  ]
}

export const simulatedResult = async (scenario: Scenario): Promise<RunResult> => (await simulatedRun(scenario))[1]
