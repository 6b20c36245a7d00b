import type { Layout, PlacementRequest } from "@uniprefill/placement/Placement"
import { shardsOf, splittablesOf } from "@uniprefill/placement/Shards"
import { provenanceTable } from "@uniprefill/simulator/output/Provenance"
import { columns } from "@uniprefill/simulator/output/Table"
import type { Summary } from "@uniprefill/simulator/metrics/Summary"
import { rankFitOptions } from "@uniprefill/simulator/Setup"
import { type Capacity, PlacementProbe, probeOutputs, probeScenario } from "./PlacementProbe.ts"
import { checkWritable, writeOutput, type OutputFile } from "./OutputFile.ts"
import { prepare } from "./Prepare.ts"
import type { ScenarioSource } from "./ScenarioSource.ts"
import { runJobs } from "./Threads.ts"
import { longestTokens } from "@uniprefill/simulator/workload/TraceRows"
import { UsageError } from "./UsageError.ts"

export interface PlacementOptions {
  readonly gpus: number
  readonly gpusPerHost: number
  /** Prompt that times and capacities are predicted for, in tokens. */
  readonly length: number
  readonly json: OutputFile
}

/** A layout with all that is predicted of it; capacities are those of one replica. */
interface Prospect {
  readonly layout: Layout
  readonly dense: Capacity | null
  /** Null where the model drops nothing. */
  readonly dropping: Capacity | null
  readonly denseTtftMicros: number | null
  /** The scenario's workload on it; null where it names none, or was not run. */
  readonly workload: Summary | null
}

/**
 * `uniprefill-sim placement`: every tensor-parallel degree × replicas on so many devices, what each holds and how soon it
 * answers, or why it does not fit. Exit code 1 when none works.
 */
export const placement = async (
  source: ScenarioSource,
  options: PlacementOptions,
  layoutsOf: (request: PlacementRequest) => ReadonlyArray<Layout>,
): Promise<void> => {
  const { scenario } = source
  const { gpus, gpusPerHost, length } = options
  for (const [flag, value] of [["--gpus", gpus] as const, ["--gpus-per-host", gpusPerHost] as const]) {
    if (value < 1) throw new UsageError(`${flag} ${value}: at least 1`)
  }
  checkWritable(options.json)
  const experiment = await prepare({
    ...source,
    scenario: probeScenario(scenario, Math.min(Math.max(1, length), longestTokens)),
  })
  const { setup } = experiment
  const rank = rankFitOptions(setup)
  if (length < 1 || length + probeOutputs > rank.maxModelLen) {
    throw new UsageError(
      `--length ${length}: from 1 to ${rank.maxModelLen - probeOutputs}, so that ${probeOutputs} output tokens fit in ${rank.maxModelLen} too`,
    )
  }
  const drops = setup.schedule.dropLayers.length > 0
  const probe = new PlacementProbe(experiment, length)
  const wanted = (milliseconds: number | undefined) => (milliseconds ? milliseconds * 1000 : Number.POSITIVE_INFINITY)
  const layouts = layoutsOf({
    ...rank,
    mesh: { devices: gpus, devicesPerHost: gpusPerHost },
    predict: (tensorParallel) => probe.latencies(tensorParallel, drops),
    target: {
      timeToFirstTokenMicros: wanted(scenario.slo?.ttftMs),
      timePerTokenMicros: wanted(scenario.slo?.tpotMs),
    },
  })
  const summaries = scenario.workload === undefined ? new Map() : await runWorkload(source, layouts)
  const prospects = layouts.map((layout): Prospect => {
    const { tensorParallel, fit } = layout
    return {
      layout,
      dense: fit === null ? null : probe.capacity(tensorParallel, fit, false),
      dropping: fit === null || !drops ? null : probe.capacity(tensorParallel, fit, true),
      denseTtftMicros: fit === null ? null : (probe.latencies(tensorParallel, false)?.timeToFirstTokenMicros ?? null),
      workload: summaries.get(tensorParallel) ?? null,
    }
  })
  const { device, schedule } = setup
  const layers = schedule.dropLayers.map((drop) => drop.layer).join(", ")
  console.log(`model      ${experiment.scenario.model}, ${drops ? `drops at layers ${layers}` : "dense"}`)
  console.log(
    `devices    ${gpus} × ${device.label}, ${gpusPerHost} a host; ${gigabytes(rank.memoryBytes)} GB each, a share of ${rank.memoryUtilization} used`,
  )
  const rests = prospects.flatMap(({ layout }) => {
    const provenance = probe.provenances.get(layout.tensorParallel)
    return provenance === undefined ? [] : [{ name: nameOf(layout), provenance }]
  })
  for (const line of provenanceTable(rests)) console.log(line)
  console.log(`prompts    of ${length} tokens; requests up to ${rank.maxModelLen}\n`)
  console.log(table(prospects, drops))
  console.log()
  for (const line of findings(prospects)) console.log(line)
  const chosen = layouts.find((layout) => layout.misfit === null) ?? null
  if (chosen === null) process.exitCode = 1
  const { tensorParallel, replicas } = chosen ?? {}
  const result = {
    format: "uniprefill-placement",
    version: 1,
    model: experiment.scenario.model,
    device: device.name,
    gpus,
    gpusPerHost,
    memoryUtilization: rank.memoryUtilization,
    length,
    chosen: chosen === null ? null : { tensorParallel, replicas },
    layouts: prospects.map((prospect) => ({
      ...prospectJson(prospect, setup.model.spec),
      provenance: probe.provenances.get(prospect.layout.tensorParallel) ?? null,
    })),
  }
  writeOutput(options.json, () => `${JSON.stringify(result, null, 2)}\n`)
}

/** The scenario on every layout whose ranks fit, by tensor-parallel degree; those that Ctrl-C cut off are left out. */
const runWorkload = async (source: ScenarioSource, layouts: ReadonlyArray<Layout>): Promise<Map<number, Summary>> => {
  const { sweep: _sweep, variants: _variants, ...scenario } = source.scenario
  const fitting = layouts.filter(({ fit }) => fit !== null)
  const jobs = fitting.map((layout) => {
    const { tensorParallel, replicas } = layout
    return { name: nameOf(layout), scenario: { ...scenario, tensorParallel, replicas }, folder: source.folder }
  })
  const reports = await runJobs(jobs)
  if (reports.some((report) => report === null)) {
    console.log("PARTIAL RESULT: ended before the workload was run on every layout.\n")
  }
  return new Map(
    fitting.flatMap(({ tensorParallel }, i) => {
      const report = reports[i]
      return report === null || report === undefined ? [] : [[tensorParallel, report.summary] as const]
    }),
  )
}

const nameOf = ({ tensorParallel, replicas }: Layout): string => `${tensorParallel} × ${replicas}`

const table = (prospects: ReadonlyArray<Prospect>, drops: boolean): string => {
  const rows: Array<ReadonlyArray<string>> = []
  const row = (label: string, of: (prospect: Prospect) => string | null | undefined) =>
    rows.push([label, ...prospects.map((prospect) => of(prospect) ?? "–")])
  const memory = (label: string, of: (fit: NonNullable<Layout["fit"]>) => string) =>
    row(label, ({ layout: { fit } }) => (fit === null ? null : of(fit)))
  row("tensor parallel × replicas", ({ layout }) => nameOf(layout))
  row("works", ({ layout }) => (layout.misfit === null ? "yes" : "no"))
  row("idle devices", ({ layout }) => `${layout.idleDevices}`)
  memory("weights, GB a device", (fit) => gigabytes(fit.memory.weights))
  memory("workspace and reserve", (fit) => gigabytes(fit.memory.workspace + fit.memory.reserve))
  if (prospects.some(({ layout }) => (layout.fit?.memory.states ?? 0) > 0)) {
    memory("recurrent states", (fit) => gigabytes(fit.memory.states))
  }
  memory("slabs", (fit) => gigabytes(fit.slabs * fit.memory.layout.slabBytes))
  memory("slabs a replica", (fit) => count(fit.slabs))
  const both = (label: string, of: (capacity: Capacity, layout: Layout) => string) => {
    row(`${label}, dense`, ({ dense, layout }) => (dense === null ? null : of(dense, layout)))
    if (drops) row(`${label}, dropping`, ({ dropping, layout }) => (dropping === null ? null : of(dropping, layout)))
  }
  both("K/V tokens, all replicas", ({ tokens }, { replicas }) => count(tokens * replicas))
  both("prompts at once, all replicas", ({ atOnce }, { replicas }) => count(atOnce * replicas))
  if (drops) row("carries of one prompt, GB a device", ({ dropping }) => dropping && gigabytes(dropping.carryBytes))
  row("TTFT of one prompt alone, dense, ms", ({ denseTtftMicros }) => millis(denseTtftMicros))
  if (drops) row("… dropping", ({ layout }) => millis(layout.predicted?.timeToFirstTokenMicros))
  row("TPOT of one prompt alone, ms", ({ layout }) => millis(layout.predicted?.timePerTokenMicros))
  both("decode step of all at once, ms", ({ decodeStepMicros, atOnce }) =>
    atOnce === 0 ? "–" : millis(decodeStepMicros)!,
  )
  if (prospects.some(({ workload }) => workload !== null)) {
    const run = (label: string, of: (summary: Summary) => string) =>
      row(label, ({ workload }) => (workload === null ? null : of(workload)))
    run("the workload: TTFT P50 / P99, ms", ({ ttft }) => `${ttft.p50.toFixed(0)} / ${ttft.p99.toFixed(0)}`)
    run("… TPOT P50 / P99, ms", ({ tpot }) => `${tpot.p50.toFixed(1)} / ${tpot.p99.toFixed(1)}`)
    run("… SLO met, % of all offered", ({ attainment }) => (attainment * 100).toFixed(1))
    run("… goodput, req/s", ({ goodput }) => goodput.toFixed(2))
  }
  return columns(rows)
}

function* findings(prospects: ReadonlyArray<Prospect>): Generator<string> {
  for (const { layout } of prospects) {
    if (layout.misfit === null) continue
    const verb = layout.misfit.reason === "Target" ? "misses its target" : "does not fit"
    const name = layout.replicas === 0 ? `Tensor parallel ${layout.tensorParallel}` : nameOf(layout)
    yield `${name} ${verb}: ${layout.misfit.detail}.`
  }
  const chosen = prospects.find(({ layout }) => layout.misfit === null)
  if (chosen === undefined) yield "No layout works."
  else yield `${nameOf(chosen.layout)} has the smallest tensor-parallel degree that works, and so the most replicas.`
  const served = prospects.filter(({ workload }) => workload !== null)
  if (served.length === 0) return
  const best = served.reduce((a, b) => (b.workload!.goodput > a.workload!.goodput ? b : a))
  yield `On the workload the goodput of ${nameOf(best.layout)} is highest: ${best.workload!.goodput.toFixed(2)} req/s within targets.`
}

const prospectJson = (prospect: Prospect, spec: Parameters<typeof splittablesOf>[0]): Record<string, unknown> => {
  const { layout, dense, dropping, denseTtftMicros, workload } = prospect
  const { fit, tensorParallel, ...rest } = layout
  const memory = fit === null ? null : { ...fit.memory, layout: undefined, slabBytes: fit.memory.layout.slabBytes }
  return {
    tensorParallel,
    ...rest,
    memory: fit === null ? null : { ...memory, usable: fit.usableBytes },
    slabs: fit?.slabs ?? null,
    shards: fit === null ? null : splittablesOf(spec).flatMap((layer) => shardsOf(layer, tensorParallel)),
    dense,
    dropping,
    denseTtftMicros,
    workload,
  }
}

const gigabytes = (bytes: number): string => (bytes / 1e9).toFixed(2)
const count = (value: number): string => value.toLocaleString("en-US")
const millis = (micros: number | null | undefined): string | null =>
  micros === null || micros === undefined ? null : (micros / 1000).toFixed(1)
