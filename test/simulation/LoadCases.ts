import { largest, type LoadRow, percentile, ServedLoad, stream } from "./Loads.ts"

export interface LoadCase {
  readonly name: string
  readonly measure: () => Readonly<Record<string, number>>
  /** What those figures may come to, in ms where they are times. */
  readonly limits: Readonly<Record<string, number>>
}

const round = (value: number) => Math.round(value * 10) / 10

const long = (promptTokens: number, outputTokens: number, more: Partial<LoadRow> = {}) => ({
  promptTokens,
  outputTokens,
  ...more,
})

/** 100 GB/s and 2 TFLOP/s, which is what the server assumes of a CPU. */
export const slowCpu = {
  name: "cpu",
  label: "CPU",
  peakTeraFlops: 2 / 0.7,
  memoryTeraBytes: 0.1 / 0.85,
  memoryBytes: 200 * 1024 ** 3,
  linkGigaBytes: 1,
  calibration: null,
}

export const cases: ReadonlyArray<LoadCase> = [
  {
    name: "fair-share: one tenant's flood, another's trickle",
    limits: { bMax: 250, aMorePercent: 3 },
    measure: () => {
      const rows = [
        ...stream(1000, 0, long(4096, 64, { tenant: "a", group: "a" })),
        ...stream(30, 1, long(1024, 64, { tenant: "b", group: "b" }), 1),
      ]
      const served = new ServedLoad({ rows, scenario: { policy: "fair-share" } })
      const alone = new ServedLoad({
        rows: rows.filter(({ group }) => group === "a"),
        scenario: { policy: "fair-share" },
      })
      const b = served.ttft("b")
      const [aP50, aP50Alone] = [percentile(served.ttft("a"), 0.5), percentile(alone.ttft("a"), 0.5)]
      return {
        bFirst8: round(largest(b.slice(0, 8))),
        bMax: round(largest(b)),
        aP50: round(aP50),
        aP50Alone: round(aP50Alone),
        aMorePercent: round(100 * (aP50 / aP50Alone - 1)),
      }
    },
  },
  {
    name: "priority: important ones into an overload",
    limits: { p50: 250 },
    measure: () => {
      const rows = [
        ...stream(1000, 10, long(8192, 64, { priority: 1 })),
        ...stream(20, 1, long(1024, 64, { priority: 0, group: "important" }), 60),
      ]
      const served = new ServedLoad({ rows, scenario: { policy: "priority" } })
      return { p50: round(percentile(served.ttft("important"), 0.5)), max: round(largest(served.ttft("important"))) }
    },
  },
  {
    name: "priority: slots held by unimportant decodes",
    limits: { ttft: 1000 },
    measure: () => {
      const rows = [
        ...stream(8, 0, long(1024, 8000, { priority: 1 })),
        ...stream(1, 1, long(1024, 64, { priority: 0, group: "important" }), 2),
      ]
      const served = new ServedLoad({ rows, scenario: { policy: "priority", engine: { slots: 8 } } })
      return { ttft: round(served.ttft("important")[0]!) }
    },
  },
  {
    name: "decodes at the budget, a prompt beside them",
    // Their own steps come to take longer than the budget; beside prefill, which has a fifth of the time, 1 / 0.8 of that.
    limits: { ttft: 1500, itlP99OfAlone: 1 / 0.8 },
    measure: () => {
      const decodes = stream(24, 0, long(30_000, 30_000))
      const prompt = stream(1, 1, long(8192, 10, { group: "prompt" }), 60)
      const engine = { stepBudgetMs: 25, maxPrefillWaitMs: 2000 }
      const scenario = { device: "h200", schedule: "off", untilSeconds: 640 } as const
      // Nobody who gave way comes back before others end, which is after the run.
      const alone = new ServedLoad({ rows: decodes, scenario: { ...scenario, engine: { ...engine, maxPauseMs: 0 } } })
      const served = new ServedLoad({ rows: [...decodes, ...prompt], scenario: { ...scenario, engine } })
      const itlP99 = percentile(served.gaps(), 0.99)
      return {
        ttft: round(served.ttft("prompt")[0]!),
        itlP99OfAlone: itlP99 / percentile(alone.gaps(), 0.99),
        itlP99: round(itlP99),
        itlMax: round(largest(served.gaps("", 500))),
      }
    },
  },
  {
    name: "cpu: a prompt beside one decode",
    limits: { ttft: 120_000, itlP99: 200 / 0.8 },
    measure: () => {
      const measure = (beside: number) => {
        const rows = [...stream(beside, 0, long(256, 4000)), ...stream(1, 1, long(4096, 10, { group: "prompt" }), 30)]
        const served = new ServedLoad({
          rows,
          device: slowCpu,
          scenario: { untilSeconds: 900, engine: { stepBudgetMs: 200, idleStepBudgetMs: 1000 } },
        })
        return { ttft: round(served.ttft("prompt")[0]!), itl: round(percentile(served.gaps(), 0.99)) }
      }
      return { ttft: measure(1).ttft, ttftIdle: measure(0).ttft, itlP99: measure(1).itl }
    },
  },
  {
    name: "shortest-prefill: short ones pass a long one",
    limits: { ttft: 10_000, passed: 32 },
    measure: () => {
      const rows = [...stream(900, 11, long(3072, 64)), ...stream(1, 1, long(65_536, 64, { group: "long" }), 10)]
      const served = new ServedLoad({ rows, scenario: { policy: "shortest-prefill" } })
      const [row] = served.rowsOf("long")
      const from = served.log.arrival[row!]!
      const to = served.log.firstToken[row!]!
      let passed = 0
      for (const other of served.rowsOf("")) {
        if (served.log.arrival[other]! > from && served.log.firstToken[other]! < to) passed++
      }
      return {
        ttft: round(served.ttft("long")[0]!),
        passed,
        shortP50: round(percentile(served.ttft(), 0.5)),
        shortP99: round(percentile(served.ttft(), 0.99)),
      }
    },
  },
  {
    name: "first gap after a prompt, two steps in flight",
    limits: { "preset firstGapMax": 75, "off firstGapMax": 75 },
    measure: () => {
      const rows = stream(12, 0, long(32_768, 4)).map((row, i) => ({ ...row, arrivalMicros: i * 100_000 }))
      const out: Record<string, number> = {}
      for (const schedule of ["preset", "off"]) {
        const served = new ServedLoad({ rows, scenario: { schedule, engine: { stepsInFlight: 2 } } })
        out[`${schedule} firstGapMax`] = round(largest(served.firstGaps()))
        out[`${schedule} ttftMean`] = round(served.ttft().reduce((a, b) => a + b, 0) / 12)
      }
      return out
    },
  },
  {
    name: "tenants: one floods the queue",
    limits: { bRefused: 0 },
    measure: () => {
      const rows = [
        ...stream(6000, 100, long(4096, 64, { tenant: "a", group: "a" })),
        ...stream(60, 1, long(1024, 64, { tenant: "b", group: "b" }), 0.5),
      ]
      const served = new ServedLoad({ rows, scenario: { policy: "fair-share" } })
      return { bRefused: served.count("b", "rejected"), aRefused: served.count("a", "rejected") }
    },
  },
  {
    name: "a device twice as slow as predicted",
    limits: { itlP99: 60 },
    measure: () => {
      const rows = [...stream(8, 0, long(1024, 4000, { group: "decodes" })), ...stream(60, 1, long(16_384, 40), 2)]
      const served = new ServedLoad({ rows, scenario: { faults: { slowSteps: 1, slowFactor: 2 } } })
      return {
        itlP99: round(percentile(served.gaps("decodes", 50), 0.99)),
        itlMax: round(largest(served.gaps("decodes", 50))),
        ttftP50: round(percentile(served.ttft(), 0.5)),
      }
    },
  },
  {
    name: "fcfs: shorts behind a prompt that waits for memory",
    limits: { shortMax: 1000 },
    measure: () => {
      const rows = [
        ...stream(1, 0, long(100_000, 2000, { group: "first" })),
        ...stream(1, 0, long(120_000, 10, { group: "second" }), 0.1),
        ...stream(14, 1, long(1024, 20), 12),
      ]
      const served = new ServedLoad({
        rows,
        scenario: { schedule: "off", engine: { slabs: 1100, protectAfterMs: 60_000, protectAfter: 100 } },
      })
      return { shortMax: round(largest(served.ttft())), second: round(served.ttft("second")[0]!) }
    },
  },
  {
    name: "memory for a few of many",
    // Makespans: within 5% of what they are where nobody takes turns.
    limits: {
      "16/2 pause": 15_000,
      "32/4 pause": 15_000,
      "64/8 pause": 15_000,
      "16/2 makespan": 1.05 * 149_500,
      "32/4 makespan": 1.05 * 153_600,
      "64/8 makespan": 1.05 * 169_500,
    },
    measure: () => {
      const out: Record<string, number> = {}
      for (const [requests, fit] of [
        [16, 2],
        [32, 4],
        [64, 8],
      ] as const) {
        const rows = stream(requests, 0, long(1024, 4000))
        const perRequest = 5024 / 128
        const served = new ServedLoad({
          rows,
          scenario: { schedule: "off", engine: { slabs: Math.ceil(fit * perRequest) } },
        })
        const all = requests * 1024
        out[`${requests}/${fit} recomputed`] = round((100 * (served.prefillRows - all)) / served.prefillRows)
        out[`${requests}/${fit} pause`] = round(largest(served.gaps()))
        out[`${requests}/${fit} makespan`] = round(served.makespan)
        out[`${requests}/${fit} preemptions`] = served.simulation.replicas[0]!.driver.scheduler.preemptions
      }
      return out
    },
  },
]
