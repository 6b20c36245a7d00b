import { Metrics, settled } from "../e2e/Metrics.ts"
import { ServeProcess } from "../e2e/ServeProcess.ts"
import { soak } from "../e2e/Soak.ts"

/**
 * 64 streaming clients with random departures, short prompts and prompts of 8K tokens, for two minutes: every stream equals
 * its solo run, nothing is owned afterwards, memory does not grow.
 *
 *     npm run bench -- soak [SECONDS [CLIENTS [EXECUTOR]]]
 */
const [seconds = "120", clients = "64", executor = "sim"] = process.argv.slice(2)

const settings =
  executor === "sim"
    ? ["--executor", "sim", "--time-scale", "0.01", "--sim-output", "random"]
    : ["--executor", executor]
await using server = await ServeProcess.start(...settings, "--log-level", "warn", "--step-budget-ms", "200")
const report = await soak(server, {
  clients: Number(clients),
  lasts: { seconds: Number(seconds) },
  shortTokens: 64,
  longTokens: 8000,
  maxTokens: 200,
  seed: 1,
})
const idle = await settled(server.url)
const itl = await Metrics.read(server.url)
console.log(
  `${report.answers} answers and ${report.aborted} given up in ${seconds} s; ${report.wrong.length} differ from their solo run, ` +
    `${report.failed.length} failed\n` +
    `afterwards: ${JSON.stringify(idle)}\n` +
    `memory over the last half: ${report.memorySlope.toFixed(2)} MB/min (bar: 1)\n` +
    `longest time between two tokens as a client saw it: ${report.longestGapMs.toFixed(0)} ms beside a step budget of 200 ms; ` +
    `${itl.value("vllm:num_preemptions_total")} preemptions`,
)
for (const line of [...report.wrong, ...report.failed].slice(0, 5)) console.log(line)
if (report.wrong.length + report.failed.length > 0) process.exitCode = 1
