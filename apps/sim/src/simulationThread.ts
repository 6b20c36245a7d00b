import { parentPort } from "node:worker_threads"
import type { RunReport } from "@uniprefill/simulator/output/RunReport"
import { runJob, type SimulationJob } from "./SimulationJob.ts"

/** A worker thread: jobs in, reports out, one at a time. */
export type ThreadReply =
  | { readonly _tag: "Done"; readonly report: RunReport }
  | { readonly _tag: "Failed"; readonly name: string; readonly message: string }

const answer = (job: SimulationJob): Promise<ThreadReply> =>
  runJob(job).then(
    (report) => ({ _tag: "Done", report }),
    ({ name, message }: Error) => ({ _tag: "Failed", name, message }),
  )

parentPort!.on("message", (job: SimulationJob) => {
  void answer(job).then((reply) => parentPort!.postMessage(reply))
})
