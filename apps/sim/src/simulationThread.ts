import { parentPort } from "node:worker_threads"
import { runJob, type SimulationJob } from "./SimulationJob.ts"

/** A worker thread: jobs in, reports out, one at a time. */
export type ThreadReply =
  | { readonly _tag: "Done"; readonly report: ReturnType<typeof runJob> }
  | { readonly _tag: "Failed"; readonly name: string; readonly message: string }

parentPort!.on("message", (job: SimulationJob) => {
  let reply: ThreadReply
  try {
    reply = { _tag: "Done", report: runJob(job) }
  } catch (error) {
    const { name, message } = error as Error
    reply = { _tag: "Failed", name, message }
  }
  parentPort!.postMessage(reply)
})
