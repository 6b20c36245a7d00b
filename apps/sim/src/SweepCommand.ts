import { gridOf, type GridPoint } from "@uniprefill/simulator/explore/Grid"
import { estimate } from "@uniprefill/simulator/explore/Interval"
import { measures, type MeasureName } from "@uniprefill/simulator/explore/Measures"
import { lineChart } from "@uniprefill/simulator/output/Chart"
import { htmlReport, type ReportChart } from "@uniprefill/simulator/output/HtmlReport"
import { saturationText } from "@uniprefill/simulator/metrics/Saturation"
import { provenanceTable } from "@uniprefill/simulator/output/Provenance"
import type { RunReport } from "@uniprefill/simulator/output/RunReport"
import { columns } from "@uniprefill/simulator/output/Table"
import { scenarioDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { Option } from "effect"
import { checkWritable, writeOutput, type OutputFile } from "./OutputFile.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"
import { runJobs } from "./Threads.ts"
import { UsageError } from "./UsageError.ts"

export interface SweepOptions {
  readonly measure: MeasureName
  /** A field of two values: the measure is divided, the first value's by the second's. */
  readonly ratio: Option.Option<string>
  readonly threads: number
  readonly html: OutputFile
  readonly json: OutputFile
  readonly csv: OutputFile
}

interface SweptPoint {
  readonly values: Readonly<Record<string, unknown>>
  readonly result: number
  readonly goodput: number
  readonly attainment: number
  readonly rejected: number
  /** Null where the load was served, in every seed. */
  readonly saturated: string | null
}

/** `uniprefill-sim sweep`: every combination of the values that the scenario's `sweep.over` lists, on worker threads. */
export const sweep = async ({ scenario, folder }: ScenarioSource, options: SweepOptions): Promise<void> => {
  const { over, seeds = 1 } = scenario.sweep ?? { over: {} }
  const fields = Object.keys(over)
  if (fields.length === 0) throw new UsageError("the scenario has no sweep.over: {field: [values, …], …}")
  if (Option.isSome(options.ratio) && over[options.ratio.value]?.length !== 2) {
    const { value } = options.ratio
    throw new UsageError(`--ratio ${value}: sweep.over lists ${over[value]?.length ?? 0} values of it, not 2`)
  }
  checkWritable(options.html, options.json, options.csv)
  const points = gridOf(scenario, over)
  const firstSeed = scenario.seed ?? scenarioDefaults.seed
  const jobs = points.flatMap((point) =>
    Array.from({ length: seeds }, (_, i) => ({
      name: label(point),
      scenario: { ...point.scenario, seed: firstSeed + i },
      folder,
    })),
  )
  const reports = await runJobs(jobs, options.threads)
  const complete = reports.every((report) => report !== null)
  if (!complete) console.log("PARTIAL RESULT: ended before every point was done; unfinished points are left out.\n")
  const done = swept(points, reports, seeds, options.measure)
  const { label: name } = measures[options.measure]
  const shown = Option.isSome(options.ratio) ? ratios(done, options.ratio.value, over) : done
  const title = Option.isSome(options.ratio) ? ratioTitle(name, options.ratio.value, over) : name
  const rest = fields.filter((field) => !Option.isSome(options.ratio) || field !== options.ratio.value)
  const restsOn = provenanceTable(
    reports.flatMap((report, i) => (report === null ? [] : [{ name: jobs[i]!.name, provenance: report.provenance }])),
  )
  for (const line of restsOn) console.log(line)
  console.log()
  console.log(
    Option.isSome(options.ratio) ? ratioTable(shown, rest, title) : rankTable(shown, rest, options.measure, name),
  )
  write(options, {
    complete,
    title: scenario.name ?? "Sweep",
    rows: points.map(({ values }, p) => ({
      values,
      reports: reports.slice(p * seeds, (p + 1) * seeds),
    })),
    restsOn,
    charts: rest.length === 0 ? [] : chartsOf(shown, rest, title),
  })
}

/** The best goodput first: a fine latency of the few that were let in is none. */
const rankTable = (
  points: ReadonlyArray<SweptPoint>,
  fields: ReadonlyArray<string>,
  measure: MeasureName,
  title: string,
): string => {
  const ranked = [...points].sort((a, b) => b.goodput - a.goodput)
  const own = measure === "goodput" ? [] : [title]
  const head = [...fields, "goodput, req/s", "SLO met %", "rejected %", ...own, ""]
  const rows = ranked.map((point) => [
    ...fields.map((field) => String(point.values[field])),
    point.goodput.toPrecision(4),
    (point.attainment * 100).toFixed(1),
    (point.rejected * 100).toFixed(1),
    ...own.map(() => number(point.result)),
    point.saturated === null ? "" : "saturated",
  ])
  return columns([head, ...rows])
}

const ratioTable = (points: ReadonlyArray<SweptPoint>, fields: ReadonlyArray<string>, title: string): string =>
  columns([
    [...fields, title],
    ...points.map((point) => [...fields.map((field) => String(point.values[field])), number(point.result)]),
  ])

const number = (value: number): string => (Number.isFinite(value) ? value.toPrecision(4) : "–")

const label = (point: GridPoint): string =>
  Object.entries(point.values)
    .map(([field, value]) => `${field}=${String(value)}`)
    .join(" ")

const swept = (
  points: ReadonlyArray<GridPoint>,
  reports: ReadonlyArray<RunReport | null>,
  seeds: number,
  measure: MeasureName,
): Array<SweptPoint> =>
  points.flatMap(({ values }, p) => {
    const own = reports.slice(p * seeds, (p + 1) * seeds)
    if (own.some((report) => report === null)) return []
    const mean = (name: MeasureName) => estimate(own.map((report) => measures[name].of(report!.summary))).mean
    const saturated = own.map((report) => saturationText(report!.summary.saturation)).find((text) => text !== null)
    return [
      {
        values,
        result: mean(measure),
        goodput: mean("goodput"),
        attainment: mean("attainment"),
        rejected: mean("rejected"),
        saturated: saturated ?? null,
      },
    ]
  })

const ratioTitle = (name: string, field: string, over: Readonly<Record<string, ReadonlyArray<unknown>>>): string =>
  `${name}: ${field} ${String(over[field]?.[0])} / ${String(over[field]?.[1])}`

/** Points without the field, each with the first value's result divided by the second's. */
const ratios = (
  done: ReadonlyArray<SweptPoint>,
  field: string,
  over: Readonly<Record<string, ReadonlyArray<unknown>>>,
): Array<SweptPoint> => {
  const values = over[field]!
  const key = (point: SweptPoint) => JSON.stringify({ ...point.values, [field]: null })
  const second = new Map(
    done.filter((point) => point.values[field] === values[1]).map((point) => [key(point), point.result]),
  )
  return done.flatMap((point) => {
    const divisor = second.get(key(point))
    return point.values[field] === values[0] && divisor !== undefined
      ? [{ ...point, result: point.result / divisor }]
      : []
  })
}

/** The last field runs along x, the one before it makes the lines, those before make the charts. */
const chartsOf = (
  points: ReadonlyArray<SweptPoint>,
  fields: ReadonlyArray<string>,
  title: string,
): Array<ReportChart> => {
  const x = fields.at(-1)!
  const lines = fields.at(-2)
  const rest = fields.slice(0, -2)
  const groups = new Map<string, Array<SweptPoint>>()
  for (const point of points) {
    const name = rest.map((field) => `${field} ${String(point.values[field])}`).join(", ")
    groups.set(name, [...(groups.get(name) ?? []), point])
  }
  return [...groups].map(([name, own]) => {
    const names = [
      ...new Set(own.map((point) => (lines === undefined ? "" : `${lines} ${String(point.values[lines])}`))),
    ]
    const positions = [...new Set(own.map((point) => String(point.values[x])))]
    const place = (value: unknown) => (typeof value === "number" ? value : positions.indexOf(String(value)))
    const numbers = own.map((point) => place(point.values[x])).filter((value) => value > 0)
    const spread = numbers.length > 2 && Math.max(...numbers) / Math.min(...numbers) >= 16
    const series = names.map((line) => ({
      name: line,
      dots: true,
      points: own
        .filter((point) => lines === undefined || `${lines} ${String(point.values[lines])}` === line)
        .map((point) => [place(point.values[x]), point.result] as const),
    }))
    return {
      title: name === "" ? title : `${title} (${name})`,
      note: "",
      svg: lineChart(title, { label: x, log: spread }, { label: title, min: 0 }, series),
    }
  })
}

interface SweepResult {
  readonly complete: boolean
  readonly title: string
  readonly rows: ReadonlyArray<{
    readonly values: SweptPoint["values"]
    readonly reports: ReadonlyArray<RunReport | null>
  }>
  readonly restsOn: ReadonlyArray<string>
  readonly charts: ReadonlyArray<ReportChart>
}

const write = (options: SweepOptions, { complete, title, rows, charts, restsOn }: SweepResult): void => {
  console.log()
  writeOutput(options.html, () => htmlReport({ title, complete, findings: [], restsOn, runs: [], charts }))
  writeOutput(options.json, () => {
    const json = {
      format: "uniprefill-sweep",
      version: 1,
      complete,
      points: rows.map(({ values, reports }) => ({
        ...values,
        provenance: reports.map((one) => one?.provenance ?? null),
        summaries: reports.map((one) => one?.summary ?? null),
      })),
    }
    return `${JSON.stringify(json, null, 2)}\n`
  })
  writeOutput(options.csv, () => csvOf(rows))
}

/** A row for each point: its values, then every measure; empty where the point was not done. */
const csvOf = (rows: SweepResult["rows"]): string => {
  const fields = Object.keys(rows[0]!.values)
  const names = Object.keys(measures) as ReadonlyArray<MeasureName>
  const lines = rows.map(({ values, reports }) => {
    const done = reports.filter((one) => one !== null)
    const mean = (name: MeasureName) => estimate(done.map((one) => measures[name].of(one.summary))).mean
    const { provenance } = done[0] ?? {}
    const rests = [
      provenance?.ratesNote ?? "",
      provenance?.link ?? "",
      provenance?.kept === null || provenance === undefined ? "" : `${provenance.kept.source}: ${provenance.kept.note}`,
      provenance?.kept?.accuracy ?? "",
      done.some((one) => one.summary.saturation?.isSaturated === true) ? "yes" : "",
    ]
    return [
      ...fields.map((field) => csvCell(String(values[field]))),
      ...names.map((name) => (done.length === 0 || Number.isNaN(mean(name)) ? "" : mean(name))),
      ...rests.map(csvCell),
    ].join(",")
  })
  const head = [...fields, ...names, "rates", "links", "kept_rows", "accuracy", "saturated"]
  return `${head.join(",")}\n${lines.join("\n")}\n`
}

const csvCell = (text: string): string => (/[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text)
