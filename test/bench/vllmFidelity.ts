/**
 * Simulates recorded runs of vLLM 0.19 (Llama-3.1-8B, one device, bfloat16, 300 ShareGPT requests) with the token-budget
 * policy and compares every request's TTFT and TPOT. Two numbers are fitted per device on the first 100 requests: a factor
 * on every rate of the datasheet, and the host time of a step; the error is that of the other 200.
 *
 * Run: node --conditions=source test/bench/vllmFidelity.ts FOLDER, with FOLDER holding workload_llama-3.1-8b.blk16.jsonl and
 * RTX4090_Llama-3.1-8B/requests.jsonl, RTXPRO6000_Llama-3.1-8B/requests.jsonl of casys-kaist/LLMServingSim (bench/examples).
 */
import { readFileSync } from "node:fs"
import { percentile } from "@uniprefill/simulator/metrics/Distribution"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults, type Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation } from "@uniprefill/simulator/Simulation"
import type { Workload } from "@uniprefill/simulator/workload/Workload"

const folder = process.argv[2]
if (folder === undefined) throw new Error("name the folder of the recorded runs")

const fitted = 100

interface Run {
  readonly name: string
  readonly device: string
  readonly maxNumSeqs: number
  /** K/V tokens that the engine reported; 0 for what the memory holds. */
  readonly kvTokens: number
}

const runs: ReadonlyArray<Run> = [
  { name: "RTX4090_Llama-3.1-8B", device: "rtx-4090", maxNumSeqs: 256, kvTokens: 41_408 },
  { name: "RTXPRO6000_Llama-3.1-8B", device: "rtx-pro-6000", maxNumSeqs: 128, kvTokens: 0 },
]

interface Recorded {
  readonly queued: number
  readonly ttft: number
  readonly tpot: number
}

/** In order of the workload's rows. */
const recordedOf = (run: Run): ReadonlyArray<Recorded> => {
  const rows: Array<Recorded> = []
  for (const line of readFileSync(`${folder}/${run.name}/requests.jsonl`, "utf8").trim().split("\n")) {
    const row = JSON.parse(line) as Record<string, number> & { request_id: string }
    rows[Number(row.request_id.split("-")[1])] = {
      queued: row["queued_ts"]! * 1e6,
      ttft: (row["first_token_ts"]! - row["queued_ts"]!) * 1000,
      tpot: ((row["last_token_ts"]! - row["first_token_ts"]!) * 1000) / (row["output_toks"]! - 1),
    }
  }
  return rows
}

const scenarioOf = (run: Run, efficiency: number, launchMicros: number): Scenario => ({
  device: run.device,
  schedule: "off",
  policy: "token-budget",
  workload: { trace: "workload_llama-3.1-8b.blk16.jsonl" },
  engine: {
    pageSize: 64,
    slots: run.maxNumSeqs,
    maxRowsPerStep: 2048,
    maxNumBatchedTokens: 2048,
    maxNumSeqs: run.maxNumSeqs,
    maxModelLen: 32_768,
    slabs: Math.floor(run.kvTokens / 64),
    stepsInFlight: 2,
    // vLLM has no such order of its own.
    protectAfter: 1_000_000,
    protectAfterMs: 1e9,
    efficiency,
  },
  host: { stepMicros: 0, launchMicros, itemMicros: 0, admissionMicros: 0, tokenizeMicrosPerToken: 0 },
})

const read = (file: string) => readFileSync(`${folder}/${file}`, "utf8")

const simulate = (run: Run, recorded: ReadonlyArray<Recorded>, efficiency: number, launchMicros: number) => {
  const { setup, workload } = buildExperiment(withDefaults(scenarioOf(run, efficiency, launchMicros)), read)
  const first = recorded[0]!.queued
  const arrivals: Workload = {
    ...workload,
    arrivalMicros: Float64Array.from(recorded, (row) => Math.round(row.queued - first)),
  }
  const simulation = new Simulation(setup, arrivals)
  simulation.advance()
  const { log } = simulation
  return {
    preemptions: simulation.replicas[0]!.driver.scheduler.preemptions,
    rows: recorded.map((_, row) => ({
      ttft: (log.firstToken[row]! - log.arrival[row]!) / 1000,
      tpot: (log.lastToken[row]! - log.firstToken[row]!) / 1000 / (log.outputs[row]! - 1),
    })),
  }
}

const mean = (values: ReadonlyArray<number>) => values.reduce((sum, value) => sum + value, 0) / values.length

for (const run of runs) {
  const recorded = recordedOf(run)
  const misfit = (efficiency: number, launchMicros: number) => {
    const { rows } = simulate(run, recorded, efficiency, launchMicros)
    return mean(rows.slice(0, fitted).map((row, i) => Math.abs(row.tpot / recorded[i]!.tpot - 1)))
  }
  // The two trade off along a valley, so the whole plane is looked at before the neighbourhood of the best point.
  let best = { efficiency: 1, launchMicros: 0, error: Number.POSITIVE_INFINITY }
  const look = (from: { efficiency: number; launchMicros: number }, steps: number, width: number, host: number) => {
    for (let e = -steps; e <= steps; e++) {
      for (let h = -steps; h <= steps; h++) {
        const efficiency = from.efficiency + e * width
        const launchMicros = from.launchMicros + h * host
        if (efficiency < 0.2 || launchMicros < 0) continue
        const error = misfit(efficiency, launchMicros)
        if (error < best.error) best = { efficiency, launchMicros, error }
      }
    }
  }
  look({ efficiency: 1, launchMicros: 5000 }, 10, 0.05, 500)
  look(best, 4, 0.0125, 125)
  const { rows, preemptions } = simulate(run, recorded, best.efficiency, best.launchMicros)
  const compare = (name: "ttft" | "tpot", from: number) => {
    const real = recorded
      .slice(from)
      .map((row) => row[name])
      .sort((a, b) => a - b)
    const made = rows
      .slice(from)
      .map((row) => row[name])
      .sort((a, b) => a - b)
    const line = (label: string, a: number, b: number) =>
      `${label} ${a.toFixed(1)} → ${b.toFixed(1)} (${((b / a - 1) * 100).toFixed(1)}%)`
    return [
      line("mean", mean(real), mean(made)),
      ...[0.5, 0.9, 0.99].map((p) => line(`P${p * 100}`, percentile(real, p), percentile(made, p))),
    ].join(", ")
  }
  console.log(
    `${run.name}: efficiency ${best.efficiency.toFixed(3)}, host ${best.launchMicros} µs a step, ${preemptions} preemptions simulated`,
  )
  console.log(`  requests ${fitted + 1} to ${recorded.length}: TTFT ms ${compare("ttft", fitted)}`)
  console.log(`  requests ${fitted + 1} to ${recorded.length}: TPOT ms ${compare("tpot", fitted)}`)
  console.log(`  all: TTFT ms ${compare("ttft", 0)}`)
  console.log(`  all: TPOT ms ${compare("tpot", 0)}`)
}
