import { estimate, estimateText, pairedDifference } from "@uniprefill/simulator/explore/Interval"
import { measures, type MeasureName } from "@uniprefill/simulator/explore/Measures"
import { saturationText } from "@uniprefill/simulator/metrics/Saturation"
import { htmlReport } from "@uniprefill/simulator/output/HtmlReport"
import { provenanceTable } from "@uniprefill/simulator/output/Provenance"
import type { RunReport } from "@uniprefill/simulator/output/RunReport"
import { columns, lengthLabel } from "@uniprefill/simulator/output/Table"
import { override } from "@uniprefill/simulator/scenario/ScenarioFields"
import { scenarioDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { checkWritable, writeOutput, type OutputFile } from "./OutputFile.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"
import { runJobs } from "./Threads.ts"
import { UsageError } from "./UsageError.ts"

export interface CompareOptions {
  readonly seeds: number
  readonly html: OutputFile
  readonly json: OutputFile
}

/** A configuration under comparison. */
interface Variant {
  readonly name: string
  readonly reports: ReadonlyArray<RunReport>
}

const shownMeasures: ReadonlyArray<MeasureName> = [
  "ttftP50",
  "ttftP99",
  "tpotP50",
  "tpotP99",
  "maxItlP99",
  "e2eP50",
  "goodput",
  "attainment",
  "rejected",
  "inputThroughput",
  "memoryMax",
]

const withoutVariants = { dense: { schedule: "off" }, dropping: { schedule: "preset" } }

/** `uniprefill-sim compare`: every variant on the same workloads and draws, for several seeds. Returns the findings. */
export const compare = async (source: ScenarioSource, options: CompareOptions): Promise<ReadonlyArray<string>> => {
  const { scenario } = source
  const variants = Object.entries(scenario.variants ?? withoutVariants)
  if (variants.length < 2) throw new UsageError(`variants: ${variants.length} given; a comparison needs two`)
  checkWritable(options.html, options.json)
  const { variants: _variants, sweep: _sweep, ...base } = scenario
  const firstSeed = scenario.seed ?? scenarioDefaults.seed
  const seeds = Array.from({ length: options.seeds }, (_, i) => firstSeed + i)
  // All variants of a seed, then those of the next: what Ctrl-C leaves can be compared.
  const jobs = seeds.flatMap((seed) =>
    variants.map(([name, values]) => ({
      name,
      scenario: { ...override(base as Scenario, values, `variants.${name}`), seed },
      folder: source.folder,
    })),
  )
  const all = await runJobs(jobs)
  const complete = all.every((report) => report !== null && report.summary.complete)
  const rounds = seeds.map((seed, s) => ({ seed, reports: all.slice(s * variants.length, (s + 1) * variants.length) }))
  const whole = rounds.filter((round) => round.reports.every((report) => report !== null))
  const shown = whole.length > 0 ? whole : rounds.slice(0, 1)
  const done = variants.flatMap(([name], v): Array<Variant> => {
    const own = shown.map((round) => round.reports[v]!).filter((report) => report !== null)
    return own.length === 0 ? [] : [{ name, reports: own }]
  })
  if (!complete)
    console.log(
      "PARTIAL RESULT: ended before every run was done; only runs that were done are shown, and whole seeds.\n",
    )
  if (done.length === 0) {
    console.log("No run was done.")
    return []
  }
  const doneSeeds = shown.map((round) => round.seed)
  for (const line of done[0]!.reports[0]!.about) console.log(line)
  const restsOn = done.flatMap(({ name, reports }) => reports.map(({ provenance }) => ({ name, provenance })))
  for (const line of provenanceTable(restsOn)) console.log(line)
  for (const { name, reports } of done) {
    const saturated = reports.map(({ summary }) => saturationText(summary.saturation)).find((text) => text !== null)
    if (saturated !== undefined) console.log(`${name}: ${saturated}`)
  }
  console.log()
  console.log(comparison(done, doneSeeds))
  const found = [...findings(done)]
  console.log()
  for (const line of found) console.log(line)
  console.log()
  writeOutput(options.html, () => {
    const runs = done.map((variant) => variant.reports[0]!)
    const whose = `These are means over seeds ${doneSeeds.join(", ")}; the table and the charts show seed ${doneSeeds[0]}.`
    const said = doneSeeds.length > 1 ? [...found, whose] : found
    return htmlReport({ title: scenario.name ?? "Comparison", complete, findings: said, runs, charts: [] })
  })
  writeOutput(options.json, () => {
    const named = done.map(({ name, reports: own }) => ({
      name,
      provenance: own.map((one) => one.provenance),
      summaries: own.map((one) => one.summary),
    }))
    const json = { format: "uniprefill-comparison", version: 1, complete, seeds: doneSeeds, variants: named }
    return `${JSON.stringify(json, null, 2)}\n`
  })
  return found
}

/** A row for each measure: every variant's mean over seeds, and the others' difference to the first with its interval. */
const comparison = (variants: ReadonlyArray<Variant>, seeds: ReadonlyArray<number>): string => {
  const [base, ...others] = variants
  const header = ["", ...variants.map((one) => one.name), ...others.map((one) => `${one.name} − ${base!.name}`)]
  const rows = shownMeasures.map((name) => {
    const { label, of } = measures[name]
    const digits = label.includes("share") ? 3 : 2
    const values = variants.map((one) => one.reports.map((report) => of(report.summary)))
    return [
      label,
      ...values.map((own) => estimateText({ ...estimate(own), half: Number.NaN }, digits)),
      ...values.slice(1).map((own) => estimateText(pairedDifference(own, values[0]!), digits)),
    ]
  })
  const note =
    seeds.length > 1
      ? `means over seeds ${seeds.join(", ")}; differences with their 95% interval, on common random numbers`
      : `seed ${seeds[0]}; with --seeds N differences get an interval`
  return `${columns([header, ...rows])}\n${note}`
}

/** In which prompt-length buckets a variant's median TTFT is not below the first's, in words. */
function* findings([base, ...others]: ReadonlyArray<Variant>): Generator<string> {
  const median = (variant: Variant, from: number) =>
    estimate(
      variant.reports.map(
        ({ summary }) =>
          summary.byLength.find((bucket) => bucket.from === from && bucket.ttft.n > 0)?.ttft.p50 ?? Number.NaN,
      ),
    ).mean
  for (const other of others) {
    const buckets = base!.reports[0]!.summary.byLength.filter(
      ({ from }) => median(base!, from) > 0 && median(other, from) > 0,
    )
    if (buckets.length === 0) {
      yield `No prompt length was answered with both ${base!.name} and ${other.name}.`
      continue
    }
    const ratios = buckets.map(
      (bucket) => `${lengthLabel(bucket)} ${(median(base!, bucket.from) / median(other, bucket.from)).toFixed(2)}×`,
    )
    yield `Median TTFT, ${base!.name} / ${other.name}, by prompt length: ${ratios.join(", ")}.`
    const worse = buckets.filter(({ from }) => median(other, from) > median(base!, from) * 1.005)
    if (worse.length === 0) {
      yield `Median TTFT with ${other.name} is at or below ${base!.name} in every prompt-length bucket.`
      continue
    }
    const onlyThisDrops =
      other.reports[0]!.summary.keptShares.length > 0 && base!.reports[0]!.summary.keptShares.length === 0
    const figures = worse.map(
      (bucket) =>
        `${lengthLabel(bucket)} tokens ${median(other, bucket.from).toFixed(0)} against ${median(base!, bucket.from).toFixed(0)} ms`,
    )
    yield `Median TTFT with ${other.name} is above ${base!.name} for prompts of ${figures.join(", ")}.`
    if (!onlyThisDrops) continue
    if (worse.some(({ to }) => to <= 1024))
      yield "Prompts below 1K tokens do not drop, and share steps with prompts that do."
    if (worse.some(({ to }) => to > 1024))
      yield "Where little is dropped, each selection ends a step for its prompt, and that costs more than it saves."
  }
}
