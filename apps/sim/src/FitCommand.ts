import { fitDefaults, fitToRun, readRecordedRun } from "@uniprefill/simulator/explore/Fit"
import { percentile } from "@uniprefill/simulator/metrics/Distribution"
import { columns } from "@uniprefill/simulator/output/Table"
import type { Option } from "effect"
import { describe } from "./Describe.ts"
import { fileReader } from "./Files.ts"
import { checkWritable, writeOutput } from "./OutputFile.ts"
import { prepare } from "./Prepare.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"
import { UsageError } from "./UsageError.ts"

export interface FitCommandOptions {
  /** The run's requests.jsonl. */
  readonly recorded: string
  readonly fitted: number
  readonly out: Option.Option<string>
}

/** `uniprefill-sim fit`: a recorded run in, a calibration file out, with the error on what it was not fitted to. */
export const fit = async (source: ScenarioSource, options: FitCommandOptions): Promise<void> => {
  checkWritable(options.out)
  const experiment = await prepare(source)
  const recorded = readRecordedRun(options.recorded, fileReader(source.folder)(options.recorded))
  if (recorded.length !== experiment.workload.count) {
    throw new UsageError(
      `${options.recorded} has ${recorded.length} requests, the scenario's workload ${experiment.workload.count}: name the workload that drove the run (--trace)`,
    )
  }
  if (options.fitted < 10 || options.fitted >= recorded.length)
    throw new UsageError(`--fitted ${options.fitted}: from 10 to ${recorded.length - 1}, so that some are held out`)
  for (const line of describe(experiment)) console.log(line)
  const found = fitToRun(experiment, recorded, { ...fitDefaults, fitted: options.fitted })
  console.log(
    `\nfitted     × ${found.efficiency.toFixed(3)} on every rate, ${found.stepMicros} µs a step, to the time per token of the first ${options.fitted} requests (mean error of one ${(found.error * 100).toFixed(1)}%)`,
  )
  for (const edge of found.onEdge) console.log(`ON THE EDGE of what was looked at: ${edge}; the fit is a bound`)
  const of = (name: "ttft" | "tpot") => {
    const ascending = (values: ReadonlyArray<number>) =>
      values.filter((one) => !Number.isNaN(one)).sort((a, b) => a - b)
    const real = ascending(found.held.map((one) => one.recorded[name]))
    const made = ascending(found.held.map((one) => one[name]))
    const mean = (values: ReadonlyArray<number>) => values.reduce((sum, value) => sum + value, 0) / values.length
    const cell = (a: number, b: number) => `${a.toFixed(1)} → ${b.toFixed(1)} (${((b / a - 1) * 100).toFixed(1)}%)`
    return [
      name.toUpperCase(),
      cell(mean(real), mean(made)),
      ...[0.5, 0.9, 0.99].map((p) => cell(percentile(real, p), percentile(made, p))),
    ]
  }
  console.log(`held out   ${found.held.length} requests, recorded → simulated, ms\n`)
  console.log(columns([["", "mean", "P50", "P90", "P99"], of("ttft"), of("tpot")]))
  const { model, tensorParallel } = found.calibration.fittedTo!
  console.log(`\nIt belongs to ${model} at tensor parallel ${tensorParallel}; used elsewhere it is marked.`)
  writeOutput(options.out, () => `${JSON.stringify(found.calibration, null, 2)}\n`)
}
