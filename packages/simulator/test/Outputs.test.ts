import { fc, test } from "@fast-check/vitest"
import { distributionOf } from "@uniprefill/simulator/metrics/Distribution"
import { GapHistogram } from "@uniprefill/simulator/metrics/GapHistogram"
import { OccupancyLog } from "@uniprefill/simulator/metrics/OccupancyLog"
import { estimateText } from "@uniprefill/simulator/explore/Interval"
import { RequestStatus } from "@uniprefill/simulator/metrics/RequestLog"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { htmlReport } from "@uniprefill/simulator/output/HtmlReport"
import { PerfettoTrace } from "@uniprefill/simulator/output/Perfetto"
import { resultJson } from "@uniprefill/simulator/output/Json"
import { queueJson, runReport, tenantSeries } from "@uniprefill/simulator/output/RunReport"
import { stepText } from "@uniprefill/simulator/output/StepText"
import { benchTable } from "@uniprefill/simulator/output/Table"
import { traceEventFault } from "@uniprefill/simulator/output/TraceEventCheck"
import { WhyLog } from "@uniprefill/simulator/output/WhyLog"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { workloadOf } from "@uniprefill/simulator/workload/Workload"
import { describe, expect, it } from "vitest"
import { experimentOf, simulated } from "./Experiments.ts"

const scenario = {
  name: "outputs",
  replicas: 2,
  workload: { ratePerSecond: 3, requests: 120, promptTokens: "uniform:500-30000", outputTokens: "uniform:1-100" },
  engine: { slots: 16 },
  faults: { cancelled: 0.1, cancelWithinMs: 3000 },
} as const

const options = { slo: { ttftMs: 1000, tpotMs: 50 }, warmupRequests: 0, gpuHourPrice: 2 }

test.prop([
  fc.array(fc.integer({ min: 0, max: 4_000_000_000 }), { minLength: 1, maxLength: 200 }),
  fc.double({ min: 0, max: 1, noNaN: true }),
])("percentiles of a gap histogram are those of its values, within 0.1%", (values, p) => {
  const histogram = new GapHistogram()
  for (const value of values) histogram.add(value, 1)
  const sorted = [...values].sort((a, b) => a - b)
  const exact = sorted[Math.max(0, Math.ceil(p * sorted.length) - 1)]!
  expect(Math.abs(histogram.percentile(p) - exact)).toBeLessThanOrEqual(exact * 0.001)
  expect(histogram.max).toBe(sorted.at(-1))
  expect(histogram.mean).toBeCloseTo(values.reduce((a, b) => a + b, 0) / values.length, 3)
})

it("a distribution interpolates between order statistics", () => {
  expect(distributionOf(Float64Array.of(4, 1, 3, 2))).toMatchObject({ n: 4, mean: 2.5, p50: 2.5, max: 4, p90: 3.7 })
  expect(distributionOf(new Float64Array())).toMatchObject({ n: 0, mean: NaN, max: NaN })
})

it("the occupancy log stays bounded and covers the whole run", () => {
  const log = new OccupancyLog(1, 0, 64)
  let time = 0
  for (let i = 0; i < 10_000; i++) {
    log.add(time, { waiting: i, running: 0, used: 0, cached: 0, idle: 0 }, [i])
    time = log.nextTime
  }
  expect(log.time.length).toBeLessThan(64)
  const gaps = new Set(log.time.slice(1).map((at, i) => at - log.time[i]!))
  expect(gaps).toEqual(new Set([log.interval]))
  expect(log.byTable[0]).toEqual(log.series.waiting)
})

describe("queues by tenant", () => {
  const rows = Array.from({ length: 90 }, (_, i) => ({
    arrivalMicros: i < 60 ? 0 : i * 20_000,
    promptTokens: 4096,
    outputTokens: 64,
    maxTokens: 64,
    tenant: i < 60 ? "flood" : `trickle ${i % 10}`,
  }))
  const { setup } = experimentOf({ ...scenario, replicas: 1, faults: {}, engine: { slots: 4 } })
  const simulation = new Simulation(setup, workloadOf("tenants", [], 0, rows))
  const samples: Array<{ readonly flood: number; readonly all: number; readonly tokens: number }> = []
  const count = simulation.tenantQueues.count.bind(simulation.tenantQueues)
  simulation.tenantQueues.count = (replicas) => {
    const { scheduler } = replicas[0]!.driver
    const flood = [...scheduler.waiting].filter((one) => one.tenant === "flood")
    const tokens = flood.reduce((sum, { promptLength }) => sum + promptLength, 0)
    samples.push({ flood: flood.length, all: scheduler.waiting.length, tokens })
    return count(replicas)
  }
  simulation.advance()
  const tenants = tenantSeries(simulation)

  it("are those of the tenants with most requests, and of all others as one", () => {
    expect(tenants).toHaveLength(8)
    expect([tenants[0]!.tenant, tenants[7]!.tenant]).toEqual(["flood", "(others)"])
  })

  it("are what waited and ran when it was looked at", () => {
    expect(samples.some(({ flood }) => flood > 0)).toBe(true)
    expect(tenants[0]!.waiting).toEqual(samples.map(({ flood }) => flood))
    expect(tenants[0]!.waitingTokens).toEqual(samples.map(({ tokens }) => tokens))
    for (const [i, { all }] of samples.entries()) {
      expect(tenants.reduce((sum, { waiting }) => sum + waiting[i]!, 0)).toBe(all)
      expect(tenants.reduce((sum, { running }) => sum + running[i]!, 0)).toBe(
        simulation.counters.occupancy.series.running[i],
      )
    }
  })

  it("are in the JSON result, and none where there is but one tenant", () => {
    expect(queueJson(simulation)).toMatchObject({
      by_tenant: [{ tenant: "flood", waiting: tenants[0]!.waiting }, {}, {}, {}, {}, {}, {}, {}],
    })
    expect(queueJson(simulated(scenario))).toMatchObject({ by_tenant: [] })
  })
})

describe("a summary", () => {
  const experiment = experimentOf(scenario)
  const simulation = simulated(scenario)
  const summary = summarise(simulation, options)
  const { log } = simulation

  it("counts every offered request once", () => {
    expect(summary.completed + summary.aborted).toBe(120)
    expect(summary.aborted).toBeGreaterThan(0)
    expect(summary.offered).toBe(120)
    expect(summary.complete).toBe(true)
    expect(summary.byLength.reduce((sum, bucket) => sum + bucket.offered, 0)).toBe(120)
  })

  it("takes requests that did not complete for misses", () => {
    let met = 0
    for (let row = 0; row < 120; row++) {
      if (log.status[row] !== RequestStatus.completed) continue
      const ttft = log.firstToken[row]! - log.arrival[row]!
      const tpot = log.outputs[row]! < 2 ? 0 : (log.lastToken[row]! - log.firstToken[row]!) / (log.outputs[row]! - 1)
      if (ttft <= 1_000_000 && tpot <= 50_000) met++
    }
    expect(summary.attainment).toBe(met / 120)
    expect(summary.goodput).toBeCloseTo(met / summary.durationSeconds, 12)
  })

  it("prices what was rented", () => {
    expect(summary.gpuHours).toBeCloseTo((2 * summary.durationSeconds) / 3600, 12)
    expect(summary.pricePerMillionOutputTokens).toBeCloseTo(((summary.gpuHours * 2) / summary.outputTokens) * 1e6, 9)
  })

  it("is printed in the words of vllm bench serve, and written with its field names", () => {
    const table = benchTable(summary)
    expect(table).toContain(`Successful requests:                    ${summary.completed}`)
    expect(table).toContain(`Median TTFT (ms):                       ${summary.ttft.p50.toFixed(2)}`)
    expect(table).toContain("Time per Output Token (excl. 1st token)")
    const json = resultJson(summary, {})
    expect(json).toMatchObject({
      completed: summary.completed,
      median_ttft_ms: summary.ttft.p50,
      p99_itl_ms: summary.itl.p99,
    })
    expect(JSON.parse(JSON.stringify(json))).toEqual(json)
  })

  it("becomes a page that asks for nothing else", () => {
    const report = runReport("a <name>", ["about"], experiment, simulation, summary)
    const page = htmlReport({ title: "T & U", complete: false, findings: [], runs: [report], charts: [] })
    expect(page).toContain("T &amp; U")
    expect(page).toContain("a &lt;name&gt;")
    expect(page).toContain("PARTIAL RESULT")
    expect(page).not.toMatch(/<script|https?:|NaN/)
    expect(page.match(/<svg/g)!.length).toBeGreaterThanOrEqual(6)
    const two = htmlReport({
      title: "two",
      complete: true,
      findings: [],
      runs: ["a", "b"].map((name) => ({ ...report, name })),
      charts: [],
    })
    const titles = [...two.matchAll(/<figcaption>([^<]+: [ab])</g)].map(([, title]) => title)
    expect(titles.slice(0, 4)).toEqual(["Memory pool in use: a", "Memory pool in use: b", "Requests: a", "Requests: b"])
    expect(titles).toHaveLength(6)
  })
})

describe("an estimate", () => {
  it.each([
    [-0.0004, 3, "0.000 ± 0.100"],
    [-0.0006, 3, "-0.001 ± 0.100"],
    [-0.4, 0, "0 ± 0"],
    [0, 2, "0.00 ± 0.10"],
    [-10, 1, "-10.0 ± 0.1"],
  ])("of %d with %i digits has no sign where it is shown as zero", (mean, digits, text) => {
    expect(estimateText({ mean, half: 0.1, n: 3 }, digits)).toBe(text)
  })
})

describe("a trace for Perfetto", () => {
  const trace = new PerfettoTrace()
  simulated(scenario, trace.observer)
  const file = JSON.parse(trace.json({}, true)) as { traceEvents: Array<Record<string, unknown>> }

  it("is a file of the Trace Event format", () => {
    expect(traceEventFault(file)).toBeNull()
    expect(file.traceEvents.filter((event) => event["ph"] === "X").length).toBeGreaterThan(200)
    expect(file.traceEvents.filter((event) => event["ph"] === "f").length).toBeGreaterThan(20)
    expect(new Set(file.traceEvents.map((event) => event["pid"]))).toEqual(new Set([1, 2]))
  })

  it.each([
    ["a slice without a duration", { ph: "X", dur: undefined }, /dur/],
    ["an unknown phase", { ph: "Q" }, /phase "Q"/],
    ["a time before the start", { ts: -5 }, /ts is -5/],
    ["a process without a number", { pid: "one" }, /pid and tid/],
    ["a slice into the next one", { dur: 1e12 }, /overlap/],
  ])("%s is found", (_, change, fault) => {
    const at = file.traceEvents.findIndex((event) => event["ph"] === "X")
    const events = file.traceEvents.map((event, i) => (i === at ? { ...event, ...change } : event))
    expect(traceEventFault({ traceEvents: events })).toMatch(fault)
  })

  it("an arrow that starts nowhere is found", () => {
    const events = file.traceEvents.filter((event) => event["ph"] !== "s")
    expect(traceEventFault({ traceEvents: events })).toMatch(/goes on before it starts/)
    const lost = file.traceEvents.map((event) =>
      event["ph"] === "s" ? { ...event, tid: Number(event["tid"]) + 8 } : event,
    )
    expect(traceEventFault({ traceEvents: lost })).toMatch(/no slice of track/)
  })

  it("an arrow before its slice is found: Perfetto would draw it from the step before", () => {
    const arrow = file.traceEvents.findIndex((event) => event["ph"] === "s")
    const early = [file.traceEvents[arrow]!, ...file.traceEvents.filter((_, i) => i !== arrow)]
    expect(traceEventFault({ traceEvents: early })).toMatch(/traceEvents\.0: its slice comes later in the file/)
  })

  it("stays bounded and says so", () => {
    const short = new PerfettoTrace(10)
    simulated(scenario, short.observer)
    const parsed = (text: string) => JSON.parse(text) as { traceEvents: Array<{ ph: string }>; metadata: object }
    expect(parsed(short.json({}, true)).traceEvents.filter((event) => event.ph === "X")).toHaveLength(10)
    expect(parsed(short.json({}, true)).metadata).toEqual({ complete: false })
    expect(parsed(trace.json({}, true)).metadata).toEqual({ complete: true })
    expect(parsed(trace.json({}, false)).metadata).toEqual({ complete: false })
  })
})

it("the parts of every step's time sum to it", () => {
  let steps = 0
  simulated(scenario, {
    stepStarted: ({ config, device, readBackMicros }, { deviceMicros }) => {
      const terms = config.costModel.terms(device.load).reduce((sum, term) => sum + term.micros, 0)
      expect(terms + device.readBacks * readBackMicros).toBeCloseTo(deviceMicros, 6)
      steps++
    },
  })
  expect(steps).toBeGreaterThan(200)
})

it("a step is explained with its requests, its parts and what was not measured", () => {
  const texts: Array<string> = []
  simulated(
    { ...scenario, device: "a100" },
    { stepStarted: (replica, step, end) => texts.push(stepText(replica, step, end)) },
  )
  const mixed = texts.find((text) => / [1-9]\d* decode rows, [1-9]/.test(text.replaceAll("\n", " ")))!
  expect(mixed).toMatch(/request \d+ \(\d+ prompt tokens\): rows \d+ to \d+ of segment/)
  expect(mixed).toMatch(/sum +\d+/)
  expect(mixed).toContain("NVIDIA A100 SXM 80 GB: nothing measured")
  const all = texts.join("\n")
  expect(all).toMatch(/\b1 prefill item\b/)
  expect(all).toMatch(/\b1 decode row\b/)
  expect(all).not.toMatch(/\b1 (prefill items|decode rows|selections)\b/)
})

it("the why log names a reason for every prompt that waits", () => {
  const why = new WhyLog()
  simulated({ ...scenario, replicas: 1, engine: { slots: 2 } }, why.observer)
  const reasons = why.lines.filter((line) => line.includes("is not admitted"))
  expect(reasons.some((line) => line.endsWith("no slot is free"))).toBe(true)
  expect(reasons.filter((line) => !/no slot is free|memory: |budget is spent|start at segment/.test(line))).toEqual([])
  expect(why.lines.filter((line) => /\b1 (decode rows|prefill items|rows)\b/.test(line))).toEqual([])
  expect(why.lines.some((line) => /request \d+ gets \d+ rows of segment 0/.test(line))).toBe(true)
})

it("what is asked of the summary without a request is nothing, not NaN", () => {
  const { setup, workload } = experimentOf({ ...scenario, untilSeconds: 0.001 })
  expect(workload.count).toBe(120)
  expect(setup.untilMicros).toBe(1000)
  const summary = summarise(simulated({ ...scenario, untilSeconds: 0.001 }), options)
  expect(summary.complete).toBe(false)
  expect(benchTable(summary)).not.toContain("NaN")
})
