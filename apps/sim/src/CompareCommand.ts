import { writeFileSync } from "node:fs"
import { estimate, estimateText, pairedDifference } from "@uniprefill/simulator/explore/Interval"
import { measures, type MeasureName } from "@uniprefill/simulator/explore/Measures"
import { htmlReport } from "@uniprefill/simulator/output/HtmlReport"
import type { RunReport } from "@uniprefill/simulator/output/RunReport"
import { columns, lengthLabel } from "@uniprefill/simulator/output/Table"
import { override } from "@uniprefill/simulator/scenario/ScenarioFields"
import { scenarioDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { Option } from "effect"
import type { ScenarioSource } from "./ScenarioSource.ts"
import { runJobs } from "./Threads.ts"
import { UsageError } from "./UsageError.ts"

export interface CompareOptions {
  readonly seeds: number
  readonly html: Option.Option<string>
  readonly json: Option.Option<string>
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
  "inputThroughput",
  "memoryMax",
]

const withoutVariants = { dense: { schedule: "off" }, dropping: { schedule: "preset" } }

/** `uniprefill-sim compare`: every variant on the same workloads and draws, for several seeds. Returns the findings. */
export const compare = async (source: ScenarioSource, options: CompareOptions): Promise<ReadonlyArray<string>> => {
  const { scenario } = source
  const variants = Object.entries(scenario.variants ?? withoutVariants)
  if (variants.length < 2) throw new UsageError(`variants: ${variants.length} given; a comparison needs two`)
  const { variants: _variants, sweep: _sweep, ...base } = scenario
  const firstSeed = scenario.seed ?? scenarioDefaults.seed
  const seeds = Array.from({ length: options.seeds }, (_, i) => firstSeed + i)
  const jobs = variants.flatMap(([name, values]) =>
    seeds.map((seed) => ({
      name,
      scenario: { ...override(base as Scenario, values, `variants.${name}`), seed },
      folder: source.folder,
    })),
  )
  const reports = await runJobs(jobs)
  const complete = reports.every((report) => report !== null && report.summary.complete)
  const done: Array<Variant> = []
  for (const [v, [name]] of variants.entries()) {
    const own = reports.slice(v * seeds.length, (v + 1) * seeds.length)
    if (own.every((report) => report !== null)) done.push({ name, reports: own })
  }
  if (!complete)
    console.log("PARTIAL RESULT: ended before every run was done; only variants with all seeds are shown.\n")
  if (done.length === 0) return []
  for (const line of done[0]!.reports[0]!.about) console.log(line)
  console.log()
  console.log(comparison(done, seeds))
  const found = [...findings(done)]
  console.log()
  for (const line of found) console.log(line)
  if (Option.isSome(options.html)) {
    const title = scenario.name ?? "Comparison"
    const runs = done.map((variant) => variant.reports[0]!)
    writeFileSync(options.html.value, htmlReport({ title, complete, findings: found, runs, charts: [] }))
    console.log(`\nReport: ${options.html.value}`)
  }
  if (Option.isSome(options.json)) {
    const json = {
      format: "uniprefill-comparison",
      version: 1,
      complete,
      seeds,
      variants: done.map(({ name, reports: own }) => ({ name, summaries: own.map((one) => one.summary) })),
    }
    writeFileSync(options.json.value, `${JSON.stringify(json, null, 2)}\n`)
  }
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
      ...values.map((own) => estimate(own).mean.toFixed(digits)),
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
        (report) => report.summary.byLength.find((bucket) => bucket.from === from)?.ttft.p50 ?? Number.NaN,
      ),
    ).mean
  for (const other of others) {
    const buckets = base!.reports[0]!.summary.byLength
    const worse = buckets.filter(({ from }) => median(other, from) > median(base!, from) * 1.005)
    const ratios = buckets.map(
      (bucket) => `${lengthLabel(bucket)} ${(median(base!, bucket.from) / median(other, bucket.from)).toFixed(2)}×`,
    )
    yield `Median TTFT, ${base!.name} / ${other.name}, by prompt length: ${ratios.join(", ")}.`
    if (worse.length === 0)
      yield `Median TTFT with ${other.name} is at or below ${base!.name} in every prompt-length bucket.`
    const onlyThisDrops =
      other.reports[0]!.summary.keptShares.length > 0 && base!.reports[0]!.summary.keptShares.length === 0
    for (const bucket of worse) {
      const [a, b] = [median(base!, bucket.from), median(other, bucket.from)]
      const reason =
        bucket.to <= 1024
          ? ": such prompts do not drop, and share steps with prompts that do"
          : ": little is dropped at this length, and each selection ends a step for its prompt"
      yield `Median TTFT of prompts of ${lengthLabel(bucket)} tokens is ${b.toFixed(0)} ms with ${other.name}, ${a.toFixed(0)} with ${base!.name}${onlyThisDrops ? reason : ""}.`
    }
  }
}
