import type { Distribution } from "../metrics/Distribution.ts"
import { barChart, escape, lineChart, short, stackedChart, waterfallChart } from "./Chart.ts"
import { saturationText } from "../metrics/Saturation.ts"
import { provenanceTable } from "./Provenance.ts"
import type { RunReport } from "./RunReport.ts"
import { lengthLabel } from "./Table.ts"

/** Further charts of a report: what a sweep or a capacity search found. */
export interface ReportChart {
  readonly title: string
  readonly note: string
  readonly svg: string
}

export interface HtmlReport {
  readonly title: string
  /** False: the run was ended early, and the page says so on top. */
  readonly complete: boolean
  readonly findings: ReadonlyArray<string>
  /** What the figures rest on, for reports without runs; those of runs are their own. */
  readonly restsOn?: ReadonlyArray<string> | undefined
  readonly runs: ReadonlyArray<RunReport>
  readonly charts: ReadonlyArray<ReportChart>
}

/** One page with everything in it: no script, no request to anywhere. */
export const htmlReport = (report: HtmlReport): string => `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(report.title)}</title>
<style>${style}</style>
</head>
<body>
<header>
<h1>${escape(report.title)}</h1>
${report.complete ? "" : '<p class="partial">PARTIAL RESULT: the run was ended before its workload was. Latencies speak of the requests that were done.</p>'}
${report.findings.length === 0 ? "" : `<ul class="findings">${report.findings.map((line) => `<li>${escape(line)}</li>`).join("")}</ul>`}
${restsOn(report)}
</header>
${report.runs.length === 0 ? "" : tiles(report.runs)}
<main>
${[...report.charts.map(chart), ...sharedCharts(report.runs), ...ownCharts(report.runs)].join("\n")}
</main>
${report.runs.map(assumptions).join("\n")}
<footer>Made by uniprefill-sim. What each figure means: docs/metrics.md.</footer>
</body>
</html>
`

/** In plain sight: rates, links, kept rows and accuracy of every run, and which of them are saturated. */
const restsOn = ({ runs, restsOn: given }: HtmlReport): string => {
  const lines = given ?? provenanceTable(runs)
  const saturated = runs.flatMap(({ name, summary }) => {
    const text = saturationText(summary.saturation)
    return text === null ? [] : [`${name}: ${text}`]
  })
  return [
    ...saturated.map((text) => `<p class="partial">${escape(text)}</p>`),
    ...(lines.length === 0 ? [] : [`<pre class="rests">${escape(lines.join("\n"))}</pre>`]),
  ].join("\n")
}

const chart = ({ title, note, svg }: ReportChart): string =>
  `<figure><figcaption>${escape(title)}${note === "" ? "" : `<small>${escape(note)}</small>`}</figcaption>${svg}</figure>`

const tiles = (runs: ReadonlyArray<RunReport>): string => {
  const rows: ReadonlyArray<readonly [string, (run: RunReport) => string]> = [
    ["TTFT P50 / P99, ms", ({ summary }) => medianAndTail(summary.ttft)],
    ["TPOT P50 / P99, ms", ({ summary }) => medianAndTail(summary.tpot)],
    ["longest gap P99, ms", ({ summary: { maxItl } }) => short(maxItl.n === 0 ? Number.NaN : maxItl.p99)],
    ["goodput, req/s", ({ summary }) => `${summary.goodput.toFixed(2)} of ${summary.requestsPerSecond.toFixed(2)}`],
    ["SLO met, of all offered", ({ summary }) => `${(summary.attainment * 100).toFixed(1)}%`],
    ["input + output, tok/s", ({ summary }) => short(summary.inputTokensPerSecond + summary.outputTokensPerSecond)],
    [
      "memory mean / max",
      ({ summary }) => `${(summary.memoryMean * 100).toFixed(0)}% / ${(summary.memoryMax * 100).toFixed(0)}%`,
    ],
    [
      "rows kept at the end",
      ({ summary }) => (summary.keptShares.length === 0 ? "100%" : `${(summary.keptShares.at(-1)! * 100).toFixed(0)}%`),
    ],
    ["GPU hours", ({ summary }) => summary.gpuHours.toFixed(2)],
    ...(runs.some(({ summary }) => summary.pricePerMillionTokens > 0)
      ? [
          [
            "price of 1M output tokens",
            ({ summary }: RunReport) => summary.pricePerMillionOutputTokens.toFixed(2),
          ] as const,
        ]
      : []),
    ["MFU", ({ summary }) => `${(summary.mfu * 100).toFixed(1)}%`],
    ["rejected", ({ summary }) => `${summary.rejected + summary.tooLong}`],
    ["completed of offered", ({ summary }) => `${summary.completed} of ${summary.offered}`],
  ]
  const head = `<tr><th></th>${runs.map((run, i) => `<th><i style="background:var(--series-${i % 8})"></i>${escape(run.name)}</th>`).join("")}</tr>`
  const body = rows.map(
    ([label, value]) => `<tr><th>${label}</th>${runs.map((run) => `<td>${escape(value(run))}</td>`).join("")}</tr>`,
  )
  return `<div class="scroll"><table>${head}${body.join("")}</table></div>`
}

const medianAndTail = ({ n, p50, p99 }: Distribution): string => (n === 0 ? "–" : `${short(p50)} / ${short(p99)}`)

const percent = (value: number): string => `${Math.round(value * 100)}%`

const sharedCharts = (runs: ReadonlyArray<RunReport>): Array<string> => {
  if (runs.length === 0) return []
  const cdf = (title: string, label: string, points: (run: RunReport) => RunReport["ttftCdf"]) =>
    chart({
      title,
      note: "share of requests at or below",
      svg: lineChart(
        title,
        { label, log: true },
        { label: "share of requests", min: 0, max: 1, format: percent },
        runs.map((run) => ({ name: run.name, points: points(run) })),
      ),
    })
  const buckets = runs[0]!.summary.byLength
  const find = (run: RunReport, from: number) => run.summary.byLength.find((bucket) => bucket.from === from)
  const charts = [
    cdf("Time to first token", "TTFT, ms", (run) => run.ttftCdf),
    cdf("Time per output token", "TPOT, ms", (run) => run.tpotCdf),
    chart({
      title: "Median TTFT by prompt length",
      note: "ms",
      svg: barChart(
        "Median TTFT by prompt length",
        { label: "TTFT P50, ms", min: 0 },
        // Without blanks: on a narrow screen there is room for no more.
        buckets.map((bucket) => lengthLabel(bucket).replaceAll(" ", "")),
        runs.map((run) => ({
          name: run.name,
          values: buckets.map(({ from }) => find(run, from)?.ttft.p50 || Number.NaN),
        })),
      ),
    }),
  ]
  const dropping = runs.filter((run) => run.summary.keptShares.length > 0)
  if (dropping.length > 0) {
    const drops = Math.max(...dropping.map((run) => run.summary.keptShares.length))
    charts.push(
      chart({
        title: "Rows kept, by segment",
        note: "share of the prompt rows of requests that drop",
        svg: barChart(
          "Rows kept, by segment",
          { label: "rows kept", max: 1, format: percent },
          Array.from({ length: drops }, (_, s) => `${s}`),
          dropping.map((run) => ({ name: run.name, values: run.summary.keptShares, colour: runs.indexOf(run) })),
        ),
      }),
    )
  }
  return charts
}

/**
 * Segments of one kind run through shades, so that many stay apart; what is shared or lies idle looks the same in every
 * report.
 */
const memoryFill = (name: string, segments: number): string => {
  if (name === "prefixes nobody uses") return "var(--series-7)"
  if (name === "shared prefixes") return "var(--series-1)"
  if (name === "carry") return "var(--series-4)"
  const [, segment, kind] = name.split(" ")
  const [from, to] = kind === "full" ? [0, 2] : [3, 6]
  const share = Math.round((Number(segment) / Math.max(1, segments - 1)) * 100)
  return `color-mix(in oklab, var(--series-${to}) ${share}%, var(--series-${from}))`
}

/** Charts of each run, those of one kind beside each other. */
const ownCharts = (runs: ReadonlyArray<RunReport>): ReadonlyArray<string> => {
  const own = runs.map((run) => runCharts(run, runs.length > 1))
  const most = Math.max(0, ...own.map((charts) => charts.length))
  return Array.from({ length: most }, (_, kind) => own.flatMap((charts) => charts[kind] ?? [])).flat()
}

const runCharts = (run: RunReport, named: boolean): Array<string> => {
  const suffix = named ? `: ${run.name}` : ""
  const { memory, tenants, waterfall } = run
  return [
    chart({
      title: `Memory pool in use${suffix}`,
      note: "by what uses it; reserved slabs are not in use",
      svg: stackedChart(
        "Memory pool in use",
        { label: "time, s" },
        { label: "share of the pool", max: 1, format: percent },
        memory.seconds,
        memory.shares.map((share) => ({ ...share, fill: memoryFill(share.name, run.summary.keptShares.length) })),
      ),
    }),
    chart({
      title: `Requests${suffix}`,
      note: "waiting and running",
      svg: lineChart("Requests", { label: "time, s" }, { label: "requests", min: 0 }, [
        { name: "waiting", points: memory.seconds.map((second, i) => [second, memory.waiting[i]!] as const) },
        { name: "running", points: memory.seconds.map((second, i) => [second, memory.running[i]!] as const) },
      ]),
    }),
    chart({
      title: `Requests from the middle of the run${suffix}`,
      note: "a bar each, in order of arrival",
      svg: waterfallChart(
        "Requests from the middle of the run",
        "time, s",
        ["waiting", "prefill", "decode"],
        waterfall.map((row) => ({
          text: `row ${row.row + 1}: ${row.promptTokens} prompt, ${row.outputTokens} output tokens`,
          times: [row.arrival, row.scheduled, row.firstToken, row.end],
        })),
      ),
    }),
    // Last, so that the others are in the same places where a run has none.
    ...(tenants.length > 0 ? tenantCharts(run, suffix) : []),
  ]
}

/** What waits and what runs, a line a tenant. */
const tenantCharts = ({ memory, tenants }: RunReport, suffix: string): Array<string> =>
  (["waiting", "running"] as const).map((field) =>
    chart({
      title: `Requests ${field}, by tenant${suffix}`,
      note: "those with most requests, the others together",
      svg: lineChart(
        `Requests ${field}, by tenant`,
        { label: "time, s" },
        { label: "requests", min: 0 },
        tenants.map((one) => ({
          name: one.tenant,
          points: memory.seconds.map((second, i) => [second, one[field][i]!] as const),
        })),
      ),
    }),
  )

const assumptions = (run: RunReport): string =>
  `<details><summary>What “${escape(run.name)}” rests on</summary><pre>${escape(run.about.join("\n"))}</pre></details>`

const style = `
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6570; --ground: #ffffff; --panel: #f5f7f9; --rule: #d9dfe5; --warn: #a33;
  --series-0: #2563a8; --series-1: #c2571a; --series-2: #2c8a57; --series-3: #8a4fa3; --series-4: #b08900; --series-5: #3a9ca8; --series-6: #b5446e; --series-7: #6b7280; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6eaee; --soft: #9aa5b1; --ground: #14181c; --panel: #1c2228; --rule: #333c45; --warn: #f08a7a;
  --series-0: #6aa9ec; --series-1: #ee9150; --series-2: #63c48f; --series-3: #c08be0; --series-4: #dcb947; --series-5: #6fd0dc; --series-6: #ec86ab; --series-7: #a4adb8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1180px; padding: 24px; background: var(--ground); color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }
h1 { font-size: 22px; margin: 0 0 8px; }
.partial { color: var(--warn); font-weight: 600; }
.findings { margin: 8px 0 16px; padding-left: 20px; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; margin: 8px 0 20px; }
th, td { text-align: right; padding: 4px 14px 4px 0; border-bottom: 1px solid var(--rule); font-weight: 400; white-space: nowrap; }
tr th:first-child { text-align: left; color: var(--soft); }
tr:first-child th { font-weight: 600; }
th i, .legend i { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 6px; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; font-size: 12px; color: var(--soft); margin: 4px 0; }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 480px), 1fr)); gap: 18px; }
figure { margin: 0; padding: 12px 14px; background: var(--panel); border-radius: 8px; }
figcaption { font-weight: 600; }
figcaption small { display: block; font-weight: 400; color: var(--soft); }
svg { width: 100%; height: auto; display: block; }
.grid { stroke: var(--rule); stroke-width: 1; }
.tick { font: 11px system-ui, sans-serif; fill: var(--soft); }
.label { font: 12px system-ui, sans-serif; fill: var(--soft); }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; }
.mark { fill: none; stroke-width: 2; }
.rests { margin: 8px 0 16px; padding: 8px 12px; background: var(--panel); border-radius: 8px; overflow-wrap: anywhere; }
details { margin-top: 16px; }
pre { white-space: pre-wrap; color: var(--soft); font-size: 12.5px; }
@media (max-width: 480px) { body { padding: 14px; } th, td { padding-right: 8px; font-size: 13px; } }
@media (max-width: 560px) { .tick { font-size: 13px; } .label { font-size: 14px; } }
footer { margin-top: 24px; color: var(--soft); font-size: 13px; }
`
