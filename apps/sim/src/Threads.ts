import { availableParallelism } from "node:os"
import { Worker } from "node:worker_threads"
import type { RunReport } from "@uniprefill/simulator/output/RunReport"
import { control } from "./Drive.ts"
import { startProgress } from "./Progress.ts"
import type { SimulationJob } from "./SimulationJob.ts"
import type { ThreadReply } from "./simulationThread.ts"

const entry = new URL(
  import.meta.url.endsWith(".ts") ? "./simulationThread.ts" : "./simulationThread.js",
  import.meta.url,
)

/** How often Ctrl-C is looked at while threads run. */
const pollMilliseconds = 100

/**
 * Runs jobs on worker threads. The reports stand in the order of the jobs, whatever the order in which they are done; after
 * Ctrl-C those that were not done are null. Rejects with the first job's failure.
 */
export const runJobs = async (
  jobs: ReadonlyArray<SimulationJob>,
  threads = availableParallelism(),
): Promise<ReadonlyArray<RunReport | null>> => {
  const reports = new Array<RunReport | null>(jobs.length).fill(null)
  const progress = startProgress("simulating", "runs")
  let next = 0
  let done = 0
  const workers: Array<Worker> = []
  const lane = () =>
    new Promise<void>((resolve, reject) => {
      if (next >= jobs.length) return resolve()
      const worker = new Worker(entry)
      workers.push(worker)
      let current = next++
      worker.on("message", (reply: ThreadReply) => {
        if (reply._tag === "Failed") {
          const error = new Error(`${jobs[current]!.name}: ${reply.message}`)
          error.name = reply.name
          return reject(error)
        }
        reports[current] = reply.report
        progress.update(++done, jobs.length)
        if (next >= jobs.length || control.interrupted) return resolve()
        current = next++
        worker.postMessage(jobs[current]!)
      })
      worker.on("error", reject)
      worker.postMessage(jobs[current]!)
    })
  const poll = new Promise<void>((resolve) => {
    const timer = setInterval(() => {
      if (control.interrupted) resolve()
    }, pollMilliseconds)
    timer.unref()
  })
  const lanes = Array.from({ length: Math.max(1, Math.min(threads, jobs.length)) }, lane)
  try {
    await Promise.race([Promise.all(lanes), poll])
  } finally {
    progress.end()
    await Promise.all(workers.map((worker) => worker.terminate()))
  }
  return reports
}
