/**
 * Speed and memory of the simulator on a trace repeated 1, 10 and 100 times: prefix sharing, dropping and metrics on.
 * CPU seconds of the process, so that a busy machine does not count; reading and scaling the trace apart. The queue has no
 * limit: a request that is refused costs nothing, and would count as simulated.
 *
 * Run: node --conditions=source test/bench/simulator.ts TRACE [repeats …] [--replicas 1] [--page-size 512]
 * Pages of 512 rows are the trace's own hash blocks: the same prefixes are shared as with smaller ones.
 */
import { readFileSync } from "node:fs"
import { parseArgs } from "node:util"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation } from "@uniprefill/simulator/Simulation"

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: { replicas: { type: "string", default: "1" }, "page-size": { type: "string", default: "512" } },
})
const [trace, ...repeats] = positionals
if (trace === undefined) throw new Error("name a trace")
const replicas = Number(values.replicas)
const pageSize = Number(values["page-size"])

const endless = { maxWaiting: 2 ** 31 - 1, maxWaitingTokens: 2 ** 50 }

const seconds = (since: NodeJS.CpuUsage): number => {
  const { user, system } = process.cpuUsage(since)
  return (user + system) / 1e6
}

for (const repeat of repeats.length > 0 ? repeats.map(Number) : [1, 10, 100]) {
  const loading = process.cpuUsage()
  const experiment = buildExperiment(
    withDefaults({ replicas, router: "prefix-aware", engine: { pageSize, ...endless }, workload: { trace, repeat } }),
    (file) => readFileSync(file, "utf8"),
  )
  const loaded = seconds(loading)
  const start = process.cpuUsage()
  const simulation = new Simulation(experiment.setup, experiment.workload)
  simulation.advance()
  const summary = summarise(simulation, experiment.summary)
  const simulated = seconds(start)
  console.log(
    JSON.stringify({
      repeat,
      replicas,
      pageSize,
      requests: experiment.workload.count,
      completed: summary.completed,
      requestsPerCpuSecond: Math.round(experiment.workload.count / simulated),
      simulatedCpuSeconds: Number(simulated.toFixed(2)),
      loadingCpuSeconds: Number(loaded.toFixed(2)),
      steps: summary.steps,
      microsPerStep: Number(((simulated * 1e6) / summary.steps).toFixed(2)),
      outputTokens: summary.outputTokens,
      cachedTokens: summary.cachedTokens,
      maxResidentMegabytes: Math.round(process.resourceUsage().maxRSS / 1024),
      hash: summary.hash,
    }),
  )
}
