import { estimate, estimateText } from "@uniprefill/simulator/explore/Interval"
import { rateInterval, rateIntervalText } from "@uniprefill/simulator/explore/RateInterval"
import { measures } from "@uniprefill/simulator/explore/Measures"
import { lineChart } from "@uniprefill/simulator/output/Chart"
import { htmlReport } from "@uniprefill/simulator/output/HtmlReport"
import { provenanceTable } from "@uniprefill/simulator/output/Provenance"
import type { RunReport } from "@uniprefill/simulator/output/RunReport"
import { columns } from "@uniprefill/simulator/output/Table"
import { override } from "@uniprefill/simulator/scenario/ScenarioFields"
import { scenarioDefaults, withDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { buildWorkload } from "@uniprefill/simulator/scenario/BuildWorkload"
import { fileReader } from "./Files.ts"
import { checkWritable, writeOutput, type OutputFile } from "./OutputFile.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"
import { runJobs } from "./Threads.ts"
import { UsageError } from "./UsageError.ts"

export interface CapacityOptions {
  /** Share of all offered requests that must meet the targets. */
  readonly attainment: number
  readonly seeds: number
  /** Rates tried first, from `low` to `high` requests a second. */
  readonly low: number
  readonly high: number
  readonly points: number
  readonly html: OutputFile
}

/** What one rate came to, seed by seed. */
interface Tried {
  readonly rate: number
  readonly attainment: ReadonlyArray<number>
  readonly goodput: ReadonlyArray<number>
  readonly rejected: ReadonlyArray<number>
  readonly hashes: ReadonlyArray<string>
  readonly reports: ReadonlyArray<RunReport>
}

/** Misses that a trace must be able to hold at the share asked for, before a rate passes or fails by one request. */
const leastMisses = 5

/** Requests of a trace, at least: the share of fewer that meet their targets is uncertain by more than 5 points either way. */
const leastRequests = 100

/** Fails with UsageError where one request more or less decides. */
const checkLength = (requests: number, attainment: number): void => {
  const needed = attainment === 1 ? 1000 : Math.max(leastRequests, Math.ceil(leastMisses / (1 - attainment)))
  if (requests >= needed) return
  throw new UsageError(
    `the trace is too short: of ${requests} requests one is ${((1 / requests) * 100).toFixed(1)}%, and ${(attainment * 100).toFixed(1)}% are to meet ` +
      `their targets; ${needed} requests or more say something (--repeat, --requests, or a lower --attainment)`,
  )
}

/** Arrivals over less than this show little of what a queue does. */
const leastSeconds = 120

/** Rounds in which the gap above the best rate is cut into four. */
const refinements = 2

/**
 * `uniprefill-sim capacity`: the largest rate at which the share of requests within their targets is reached. A grid of rates
 * is tried first, so a rate that fails below one that passes is found and said, not assumed away.
 */
export const capacity = async (source: ScenarioSource, options: CapacityOptions): Promise<void> => {
  const { scenario, folder } = source
  const full = withDefaults(scenario)
  if (full.slo.ttftMs === 0 && full.slo.tpotMs === 0)
    throw new UsageError("capacity needs a target: --slo-ttft-ms or --slo-tpot-ms")
  if (!(options.low > 0 && options.high > options.low))
    throw new UsageError(`--low ${options.low} and --high ${options.high}: rates ascend from above 0`)
  if (!(options.attainment > 0 && options.attainment <= 1))
    throw new UsageError(`--attainment ${options.attainment}: a share above 0, at most 1`)
  checkWritable(options.html)
  const workload = buildWorkload({ ...full, workload: { ...full.workload, rate: 1 } }, fileReader(folder))
  if (workload.count < 2 || workload.arrivalMicros[workload.count - 1] === 0)
    throw new UsageError(
      `${workload.name}: ${workload.count} requests; a rate of arrivals needs two at different times`,
    )
  checkLength(workload.count, options.attainment)
  const natural = (workload.count - 1) / (workload.arrivalMicros[workload.count - 1]! / 1e6)
  const firstSeed = scenario.seed ?? scenarioDefaults.seed
  const tried: Array<Tried> = []
  const tryRates = async (rates: ReadonlyArray<number>): Promise<boolean> => {
    const jobs = rates.flatMap((rate) =>
      Array.from({ length: options.seeds }, (_, i) => ({
        name: `${rate.toFixed(3)} req/s`,
        scenario: { ...override(scenario, { "workload.rate": rate / natural }, "capacity"), seed: firstSeed + i },
        folder,
      })),
    )
    const reports = await runJobs(jobs)
    for (const [r, rate] of rates.entries()) {
      const own = reports.slice(r * options.seeds, (r + 1) * options.seeds)
      if (own.some((report) => report === null)) continue
      tried.push({
        rate,
        attainment: own.map((one) => one!.summary.attainment),
        goodput: own.map((one) => one!.summary.goodput),
        rejected: own.map((one) => measures.rejected.of(one!.summary)),
        hashes: own.map((one) => one!.summary.hash),
        reports: own.map((one) => one!),
      })
    }
    tried.sort((a, b) => a.rate - b.rate)
    return reports.every((report) => report !== null)
  }
  const step = (options.high / options.low) ** (1 / (options.points - 1))
  let complete = await tryRates(Array.from({ length: options.points }, (_, i) => options.low * step ** i))
  for (let round = 0; round < refinements && complete; round++) {
    const best = tried.findLastIndex((one) => estimate(one.attainment).mean >= options.attainment)
    const above = tried[best + 1]
    if (best < 0 || above === undefined) break
    const from = tried[best]!.rate
    complete = await tryRates([1, 2, 3].map((quarter) => from + ((above.rate - from) * quarter) / 4))
  }
  if (!complete) console.log("PARTIAL RESULT: ended before every rate was tried.\n")
  const restsOn = provenanceTable(
    tried.flatMap(({ rate, reports }) =>
      reports.map(({ provenance }) => ({ name: `${rate.toFixed(3)} req/s`, provenance })),
    ),
  )
  for (const line of restsOn) console.log(line)
  console.log()
  console.log(
    columns([
      ["req/s", "SLO met", "goodput", "rejected", ""],
      ...tried.map((one) => [
        one.rate.toFixed(3),
        estimateText(estimate(one.attainment), 4),
        estimateText(estimate(one.goodput), 3),
        estimateText(estimate(one.rejected), 3),
        one.reports.some(({ summary }) => summary.saturation?.isSaturated === true) ? "saturated" : "",
      ]),
    ]),
  )
  console.log()
  const found = conclusion(tried, options, full.slo, workload.count)
  for (const line of found) console.log(line)
  console.log()
  writeOutput(options.html, () =>
    htmlReport({
      title: scenario.name ?? "Capacity",
      complete,
      findings: found,
      restsOn,
      runs: [],
      charts: [{ title: "Goodput against offered load", note: "", svg: goodputChart(tried, options.attainment) }],
    }),
  )
}

/** Goodput at each rate tried, beside all that was offered, with the best rate marked. */
const goodputChart = (tried: ReadonlyArray<Tried>, attainment: number): string => {
  const goodput = tried.map((one) => [one.rate, estimate(one.goodput).mean] as const)
  const best = tried.findLast((one) => estimate(one.attainment).mean >= attainment)
  const mark =
    best === undefined
      ? {}
      : { mark: { at: [best.rate, estimate(best.goodput).mean] as const, text: `knee: ${best.rate.toFixed(2)} req/s` } }
  return lineChart(
    "Goodput against offered load",
    { label: "offered, req/s" },
    { label: "within targets, req/s", min: 0 },
    [
      { name: "goodput", points: goodput, dots: true, ...mark },
      { name: "all offered", points: tried.map((one) => [one.rate, one.rate] as const), dashed: true },
    ],
  )
}

const conclusion = (
  tried: ReadonlyArray<Tried>,
  { attainment, seeds }: CapacityOptions,
  slo: { ttftMs: number; tpotMs: number },
  requests: number,
): Array<string> => {
  const target = [slo.ttftMs > 0 ? `TTFT ≤ ${slo.ttftMs} ms` : "", slo.tpotMs > 0 ? `TPOT ≤ ${slo.tpotMs} ms` : ""]
    .filter(Boolean)
    .join(" and ")
  const share = `${Number((attainment * 100).toFixed(4))}%`
  const passes = (one: Tried) => estimate(one.attainment).mean >= attainment
  if (tried.length === 0) return ["No rate was tried to its end."]
  const best = tried.findLast(passes)
  if (best === undefined) {
    return [
      `No rate tried meets ${target} for ${share} of the requests: at ${tried[0]!.rate.toFixed(3)} req/s ${(estimate(tried[0]!.attainment).mean * 100).toFixed(1)}% do. Try lower rates, or looser targets.`,
    ]
  }
  const interval = rateInterval(
    tried.map(({ rate }) => rate),
    tried.map((one) => one.attainment.map((each) => each >= attainment)),
  )
  const differs = tried.some(({ hashes }) => new Set(hashes).size > 1)
  const restsOn =
    seeds === 1
      ? "one seed: the step of the grid alone"
      : differs
        ? `95% over ${seeds} seeds, the step of the grid with it`
        : "the step of the grid alone: nothing in this scenario is drawn, so the seeds are all alike"
  const lines = [
    `Largest rate tried with ${target} for ${share} of the requests: ${best.rate.toFixed(3)} req/s. It may be ${rateIntervalText(interval)} (${restsOn}).`,
  ]
  const seconds = requests / best.rate
  if (seconds < leastSeconds) {
    lines.push(
      `At that rate the ${requests} requests arrive within ${seconds.toFixed(0)} s: too short for a queue to build up. A longer trace (--repeat) finds a lower rate.`,
    )
  }
  if (best === tried.at(-1)) lines.push("Every rate up to the highest meets it: try higher ones with --high.")
  const dips = tried.filter((one) => one.rate < best.rate && !passes(one))
  if (dips.length > 0)
    lines.push(`Not monotone: ${dips.map((one) => `${one.rate.toFixed(3)} req/s`).join(", ")} fail below it.`)
  return lines
}
