import { Schema } from "effect"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { Command, type Fault, type Measured, Request, type Reply } from "../protocol/Protocol.ts"
import { open } from "./Documents.ts"
import { fieldSpecs } from "./Fields.ts"
import { type RunModel, runModel } from "../timeline/RunModel.ts"
import { type LookBack } from "./LookBack.ts"
import { RecordedRun } from "./RecordedRun.ts"
import { check, experimentOf, isUsersError } from "./Scenarios.ts"
import { SimulatedRun } from "./SimulatedRun.ts"
import { transferables } from "./Transferables.ts"

/** A worker of the page: commands in, replies out, one at a time. Holds at most one run. */

declare const self: {
  readonly addEventListener: (type: "message", listener: (event: { readonly data: unknown }) => void) => void
  readonly postMessage: (message: Reply, transfer?: Array<ArrayBuffer>) => void
}

let held: LookBack | null = null
let isStopped = false

const noRun = "this worker holds no run"

const answer = async (id: number, command: Command): Promise<unknown> => {
  switch (command.do) {
    case "describeFields":
      return fieldSpecs()
    case "open":
      return open(command.name, command.file)
    case "check":
      return check(command.scenario, command.files)
    case "measure":
      return measure(command.scenario, command.files)
    case "run":
      held = new SimulatedRun(await experimentOf(command.scenario, command.files))
      return runHeld(id, held)
    case "replay":
      held = await RecordedRun.open(command.name, command.file)
      return runHeld(id, held)
    case "look":
      if (held === null) throw new Error(noRun)
      return held.at(command.step, command.request)
    case "perfetto":
      if (held?.perfetto === undefined) throw new Error(noRun)
      return held.perfetto()
  }
}

const runHeld = async (id: number, run: LookBack): Promise<RunModel> => {
  const result = await run.run(
    () => isStopped,
    (progress) => self.postMessage({ id, tag: "progress", progress }),
  )
  return runModel(result)
}

const measure = async (scenario: unknown, files: Readonly<Record<string, Blob>>): Promise<Measured> => {
  const { setup, workload, summary } = await experimentOf(scenario, files)
  const simulation = new Simulation(setup, workload)
  simulation.advance()
  const arrivals = workload.arrivalMicros.toSorted()
  const seconds = (arrivals.at(-1)! - arrivals[0]!) / 1e6
  return { summary: summarise(simulation, summary), offeredPerSecond: seconds === 0 ? 0 : workload.count / seconds }
}

const faultOf = (error: unknown): Fault => {
  const { name, message } = error instanceof Error ? error : new Error(String(error))
  return { name, message, isUsers: isUsersError(error) }
}

self.addEventListener("message", ({ data }) => {
  const request = Schema.decodeUnknownSync(Request)(data)
  if ("stop" in request) {
    isStopped = true
    return
  }
  const { id, command } = request
  // Here and not where a run begins: one may be stopped while its files are still read.
  isStopped = false
  void answer(id, command).then(
    (value) => self.postMessage({ id, tag: "done", value }, transferables(value)),
    (error: unknown) => self.postMessage({ id, tag: "failed", fault: faultOf(error) }),
  )
})
