/**
 * Speed and memory of the simulator on a trace repeated 1, 10 and 100 times: prefix sharing, dropping and metrics on.
 * CPU seconds of the process, so that a busy machine does not count; reading and scaling the trace apart.
 *
 * Run: node --conditions=source test/bench/simulator.ts TRACE [repeats …]
 */
import { readFileSync } from "node:fs"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { buildExperiment } from "@uniprefill/simulator/scenario/Build"
import { withDefaults } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation } from "@uniprefill/simulator/Simulation"

const [trace, ...repeats] = process.argv.slice(2)
if (trace === undefined) throw new Error("name a trace")

const seconds = (since: NodeJS.CpuUsage): number => {
  const { user, system } = process.cpuUsage(since)
  return (user + system) / 1e6
}

for (const repeat of repeats.length > 0 ? repeats.map(Number) : [1, 10, 100]) {
  const loading = process.cpuUsage()
  const experiment = buildExperiment(
    withDefaults({ replicas: 2, router: "prefix-aware", workload: { trace, repeat } }),
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
      requests: experiment.workload.count,
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
