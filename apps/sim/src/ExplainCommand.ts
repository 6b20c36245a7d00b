import { setImmediate } from "node:timers/promises"
import type { Replica, StepRecord } from "@uniprefill/simulator/Replica"
import { stepText } from "@uniprefill/simulator/output/StepText"
import { whyLines } from "@uniprefill/simulator/output/WhyLog"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { control, stride } from "./Drive.ts"
import { prepare } from "./Prepare.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"
import { UsageError } from "./UsageError.ts"

/** `uniprefill-sim explain`: runs up to a step and says what it holds, why, and where its time goes. */
export const explain = async (
  source: ScenarioSource,
  wanted: { readonly step: number; readonly replica: number },
): Promise<void> => {
  const experiment = await prepare(source)
  const { replicas } = experiment.setup
  if (wanted.replica >= replicas) throw new UsageError(`--replica ${wanted.replica}: from 0 to ${replicas - 1}`)
  const found: Array<string> = []
  const stepStarted = (replica: Replica, step: StepRecord, endMicros: number) => {
    if (replica.index !== wanted.replica || step.plan.stepId !== wanted.step) return
    found.push(`${stepText(replica, step, endMicros)}\n\n${whyLines(replica, step).slice(1).join("\n")}`)
  }
  const simulation = new Simulation(experiment.setup, experiment.workload, { stepStarted })
  while (found.length === 0 && !simulation.isDone && !control.interrupted) {
    for (let i = 0; i < stride && found.length === 0; i++) simulation.advance(1)
    await setImmediate()
  }
  if (found.length === 0 && control.interrupted) {
    console.log(`PARTIAL RESULT: ended after ${simulation.counters.steps} steps, before step ${wanted.step}.`)
    return
  }
  if (found.length === 0) {
    throw new UsageError(
      `--step ${wanted.step} of replica ${wanted.replica}: the run has ${simulation.counters.steps} steps${replicas === 1 ? "" : ` on ${replicas} replicas`}`,
    )
  }
  console.log(found[0])
}
