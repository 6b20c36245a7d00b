import { Schema } from "effect"
import { summarise } from "@uniprefill/simulator/metrics/Summary"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { Command, type Fault, type Measured, Request, type Reply } from "../protocol/Protocol.ts"
import { open } from "./Documents.ts"
import { fieldSpecs } from "./Fields.ts"
import { type RunModel, runModel } from "../timeline/RunModel.ts"
import { breath, type LookBack } from "./LookBack.ts"
import { RecordedRun } from "./RecordedRun.ts"
import { check, experimentOf, isUsersError } from "./Scenarios.ts"
import { SimulatedRun } from "./SimulatedRun.ts"
import { transferables } from "./Transferables.ts"

/** A worker of the page: commands in, replies out, one at a time. Holds at most one run. */

declare const self: {
  readonly name: string
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

/** Looks made before anybody asks: the first ones take several times as long as later ones. */
const warmingLooks = 48

/** When they begin, ms: the page paints its first picture meanwhile, and may need the processor for itself. */
const warmingDelayMs = 500

/** Looks back here and there, letting messages in between. */
const warm = async (run: LookBack, { result }: RunModel): Promise<void> => {
  await new Promise((resolve) => setTimeout(resolve, warmingDelayMs))
  const { count } = result.timeline.steps
  if (count === 0) return
  for (let i = 1; i <= warmingLooks; i++) {
    await breath()
    if (run !== held) return
    run.at(Math.floor((count * ((5 * i) % (warmingLooks + 1))) / (warmingLooks + 1)), -1)
  }
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

/**
 * Holds the lock of this worker's name as long as it lives, since no event says that a browser has ended one; nothing is begun
 * before that. Where there is no name or no lock to hold, it goes without.
 */
const alive = new Promise<void>((resolve) => {
  if (!self.name || !("locks" in navigator)) return resolve()
  const hold = () => {
    self.postMessage({ tag: "alive" })
    resolve()
    return new Promise(() => {})
  }
  navigator.locks.request(self.name, hold).catch(() => resolve())
})

self.addEventListener("message", ({ data }) => {
  const request = Schema.decodeUnknownSync(Request)(data)
  if ("stop" in request) {
    isStopped = true
    return
  }
  const { id, command } = request
  // Here and not where a run begins: one may be stopped while its files are still read.
  isStopped = false
  void alive
    .then(() => answer(id, command))
    .then(
      (value) => {
        self.postMessage({ id, tag: "done", value }, transferables(value))
        // What cannot be looked at is said to whoever looks.
        if (command.do === "run" || command.do === "replay") void warm(held!, value as RunModel).catch(() => {})
      },
      (error: unknown) => self.postMessage({ id, tag: "failed", fault: faultOf(error) }),
    )
})
