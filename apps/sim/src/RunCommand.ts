import { benchTable, lengthTable } from "@uniprefill/simulator/output/Table"
import { resultJson } from "@uniprefill/simulator/output/Json"
import { htmlReport } from "@uniprefill/simulator/output/HtmlReport"
import { provenanceLines, provenanceOf } from "@uniprefill/simulator/output/Provenance"
import { PerfettoTrace } from "@uniprefill/simulator/output/Perfetto"
import { queueJson, runReport } from "@uniprefill/simulator/output/RunReport"
import { WhyLog } from "@uniprefill/simulator/output/WhyLog"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { Option } from "effect"
import { describe, reproduction } from "@uniprefill/simulator/output/Describe"
import { drive } from "./Drive.ts"
import { checkWritable, writeOutput, type OutputFile } from "./OutputFile.ts"
import { prepare } from "./Prepare.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"
import { StudioFile } from "./StudioFile.ts"

export interface RunOutputs {
  readonly json: OutputFile
  readonly html: OutputFile
  readonly perfetto: OutputFile
  readonly why: OutputFile
  readonly studio: OutputFile
}

/** `uniprefill-sim run`. */
export const run = async (source: ScenarioSource, outputs: RunOutputs): Promise<void> => {
  checkWritable(outputs.json, outputs.html, outputs.perfetto, outputs.why, outputs.studio)
  const studio = Option.isSome(outputs.studio) ? new StudioFile(source) : null
  const experiment = await prepare(source, studio?.read)
  const trace = Option.isSome(outputs.perfetto) ? new PerfettoTrace() : null
  const why = Option.isSome(outputs.why) ? new WhyLog() : null
  const observers = [trace, why].flatMap((one) => (one === null ? [] : [one.observer]))
  const simulation = new Simulation(experiment.setup, experiment.workload, {
    stepStarted: (replica, step, end) => observers.forEach((observer) => observer.stepStarted?.(replica, step, end)),
  })
  for (const line of describe(experiment)) console.log(line)
  const seconds = await drive(simulation, "simulating")
  const summary = summarise(simulation, experiment.summary)
  const provenance = provenanceOf(experiment, summary)
  for (const line of provenanceLines(provenance)) console.log(line)
  console.log()
  if (!summary.complete) console.log(partial(simulation))
  console.log(benchTable(summary))
  console.log()
  console.log(lengthTable(summary.byLength))
  console.log()
  console.log(`${(simulation.ended / seconds).toFixed(0)} simulated requests/s; ${reproduction(experiment)}`)
  const about = { scenario: experiment.scenario, assumptions: experiment.workload.assumptions, provenance }
  writeOutput(outputs.json, () => {
    const result = { ...resultJson(summary, about), queues: queueJson(simulation) }
    return `${JSON.stringify(result, null, 2)}\n`
  })
  writeOutput(outputs.html, () => {
    const runs = [runReport(experiment.scenario.name, describe(experiment), experiment, simulation, summary)]
    return htmlReport({ title: experiment.scenario.name, complete: summary.complete, findings: [], runs, charts: [] })
  })
  if (studio !== null) writeOutput(outputs.studio, () => studio.json(summary.complete ? summary.hash : ""))
  if (trace !== null) {
    writeOutput(outputs.perfetto, () => trace.json(about, summary.complete))
    if (!trace.complete) console.log(`the trace holds the run's first ${trace.maxSteps} steps`)
  }
  if (why !== null) {
    const head = summary.complete ? [] : [partial(simulation)]
    writeOutput(outputs.why, () => `${[...head, ...why.lines].join("\n")}\n`)
  }
}

const partial = (simulation: Simulation): string =>
  `PARTIAL RESULT: ended at ${(simulation.now / 1e6).toFixed(1)} s of simulated time, ` +
  `${simulation.ended} of ${simulation.workload.count} requests done.`
