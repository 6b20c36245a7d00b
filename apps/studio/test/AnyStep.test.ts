import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { fileURLToPath } from "node:url"
import { gunzipSync } from "node:zlib"
import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import type { Recording } from "@uniprefill/recording/RecordingCodec"
import { decodeRecording } from "@uniprefill/recording/RecordingCodec"
import { resultOf } from "@uniprefill/recording/Replay"
import type { Actions } from "@uniprefill/scheduler/Actions"
import { Driver } from "@uniprefill/scheduler/Driver"
import { policyByName } from "@uniprefill/scheduler/policies/PolicyByName"
import { prepare } from "@uniprefill/sim/Prepare"
import type { Replica, StepRecord } from "@uniprefill/simulator/Replica"
import type { Scenario } from "@uniprefill/simulator/scenario/Scenario"
import { Simulation } from "@uniprefill/simulator/Simulation"
import { Checkpoints } from "@uniprefill/simulator/timetravel/Checkpoints"
import { requestDetail, stepState } from "@uniprefill/simulator/timetravel/StepState"
import { TimeMachine } from "@uniprefill/simulator/timetravel/TimeMachine"
import { RecordedLoop } from "@uniprefill/studio/engine/RecordedLoop"
import type { Command, Moment, Reply } from "@uniprefill/studio/protocol/Protocol"
import type { RunModel } from "@uniprefill/studio/timeline/RunModel"
import { Random } from "@uniprefill/units/Random"
import { afterAll, afterEach, describe, expect, it, vi } from "vitest"
import { simHere } from "../../sim/test/SimProcess.ts"

const folder = mkdtempSync(join(tmpdir(), "uniprefill-studio-steps-"))

afterAll(() => rmSync(folder, { recursive: true, force: true }))

/** The page's worker, its messages copied as they are between threads. */
class WorkerHere {
  private send: (event: { readonly data: unknown }) => void = () => {}
  private readonly waiting = new Map<number, (reply: Reply) => void>()
  private next = 1

  static async open(): Promise<WorkerHere> {
    const worker = new WorkerHere()
    vi.stubGlobal("self", {
      addEventListener: (_: string, listener: typeof worker.send) => (worker.send = listener),
      postMessage: (reply: Reply, transfer: Array<ArrayBuffer> = []) => {
        if (reply.tag === "done" || reply.tag === "failed")
          worker.waiting.get(reply.id)!(structuredClone(reply, { transfer }))
      },
    })
    await import("@uniprefill/studio/engine/worker")
    return worker
  }

  ask<A>(command: Command): Promise<A> {
    const id = this.next++
    return new Promise((resolve, reject) => {
      this.waiting.set(id, (reply) => {
        if (reply.tag === "done") resolve(reply.value as A)
        else if (reply.tag === "failed") reject(new Error(reply.fault.message))
      })
      this.send({ data: { id, command } })
    })
  }

  look(step: number, request: number): Promise<Moment> {
    return this.ask<Moment>({ do: "look", step, request })
  }
}

const worker = await WorkerHere.open()

/** Puts something in the place of a method until the test ends: it gets the method, the object and the arguments. */
const replace = <Self extends object>(
  prototype: Self,
  name: string,
  by: (method: (...args: ReadonlyArray<number>) => unknown, self: Self, args: ReadonlyArray<number>) => unknown,
) => {
  const method = Reflect.get(prototype, name) as (...args: ReadonlyArray<number>) => unknown
  vi.spyOn(prototype as Record<string, typeof method>, name).mockImplementation(function (this: Self, ...args) {
    return by((...given) => method.apply(this, [...given]), this, args)
  })
}

/** Short slices with a checkpoint after each, so that short runs have many, and the same ones on any machine. */
const withManyCheckpoints = () => {
  for (const loop of [Simulation.prototype, RecordedLoop.prototype])
    replace<object>(loop, "advance", (advance, _, [count = 1]) => advance(Math.min(count, 25)))
  vi.spyOn(Checkpoints.prototype, "spread", "get").mockReturnValue(0)
  return vi.spyOn(Checkpoints.prototype, "take")
}

afterEach(() => vi.restoreAllMocks())

const scenarios: ReadonlyArray<readonly [name: string, scenario: Scenario, has: (seen: Seen) => number]> = [
  [
    "prompts that drop, chunk by chunk",
    { seed: 3, workload: { requests: 60, ratePerSecond: 6, promptTokens: "lognormal:9000,1,60000" } },
    ({ dropped }) => dropped,
  ],
  [
    "preemption",
    {
      workload: { requests: 40, ratePerSecond: 50, promptTokens: "uniform:500-3000", outputTokens: "uniform:300-900" },
      engine: { slots: 16, slabs: 2000 },
    },
    ({ preemptions }) => preemptions,
  ],
  [
    "prefix hits in sessions, two replicas",
    {
      replicas: 2,
      router: "prefix-aware",
      workload: { arrivals: "sessions", requests: 60, ratePerSecond: 4, turns: 5, thinkMs: 200, promptTokens: 2000 },
    },
    ({ cachedPages }) => cachedPages,
  ],
  [
    "faults, clients that give up, and a change of policy",
    {
      seed: 5,
      workload: { requests: 60, ratePerSecond: 5, promptTokens: "uniform:200-20000", outputTokens: "uniform:1-100" },
      faults: { failedSteps: 0.01, slowSteps: 0.05, cancelled: 0.2 },
      changes: [{ atMicros: 4_000_000, policy: "shortest-prefill", slow: { factor: 3, seconds: 2 } }],
    },
    ({ failed }) => failed,
  ],
]

/** What a scenario is there for, over its whole run. */
interface Seen {
  readonly dropped: number
  readonly preemptions: number
  readonly cachedPages: number
  readonly failed: number
}

const seenIn = ({ result }: RunModel): Seen => ({
  dropped: result.requests.keptRows.filter((rows) => rows > 0).length,
  preemptions: result.timeline.preemptions.count,
  cachedPages: result.requests.cachedTokens.filter((tokens) => tokens > 0).length,
  failed: result.timeline.steps.flags.filter((flags) => (flags & 1) === 1).length,
})

/** The state after step `index` of the command line's own simulation, which never looked back. */
const replayTo = async (scenario: Scenario, index: number, row: number): Promise<Moment> => {
  const { setup, workload } = await prepare({ scenario, folder })
  const found: Array<Moment> = []
  const simulation: Simulation = new Simulation(setup, workload, {
    stepStarted: (replica: Replica, step: StepRecord, end: number) => {
      if (simulation.counters.steps - 1 !== index) return
      found.push({ state: stepState(replica, step, end, simulation.now), detail: requestDetail(replica, row) })
    },
  })
  while (found.length === 0) simulation.advance(1)
  return found[0]!
}

/** Looks at random steps, in random order, and compares each with the command line's replay to it. */
const compareSteps = async (scenario: Scenario, steps: number, looks: number, seed: number) => {
  const random = new Random(seed, "looks")
  const file = join(folder, "steps.scenario.json")
  writeFileSync(file, JSON.stringify(scenario))
  for (let i = 0; i < looks; i++) {
    const index = random.below(steps)
    const row = random.below(scenario.workload!.requests!)
    const moment = await worker.look(index, row)
    expect(moment, `step ${index}, request ${row}`).toEqual(structuredClone(await replayTo(scenario, index, row)))
    const { step, replica, text } = moment.state
    const { code, out } = await simHere(folder, ["explain", file, "--step", `${step}`, "--replica", `${replica}`])
    expect([code, out], `step ${index}`).toEqual([0, `${text}\n`])
  }
}

describe("any step of a run in the worker is what the command line's replay to that step finds", () => {
  it.each(scenarios)("%s", async (_, scenario, has) => {
    const taken = withManyCheckpoints()
    const model = await worker.ask<RunModel>({ do: "run", scenario, files: {} })
    expect(taken.mock.calls.length).toBeGreaterThan(10)
    expect(has(seenIn(model))).toBeGreaterThan(0)
    const { count } = model.result.timeline.steps
    expect(count).toBeGreaterThan(300)
    await compareSteps(scenario, count, 12, 1)
  })

  it.each([
    [
      "a checkpoint were put back one step late",
      () =>
        replace(Checkpoints.prototype, "approach", (approach, self, args) => {
          approach(...args)
          const run = self["graph"]["root"] as Simulation
          const { counters } = run
          const before = counters.steps
          while (counters.steps === before && !run.isDone) run.advance(1)
          counters.steps = before
        }),
    ],
    [
      "the state at a step were that of the step after it",
      () =>
        replace(TimeMachine.prototype, "at", (at, self, [index = 0, row = -1]) =>
          at(Math.min(index + 1, self.steps - 1), row),
        ),
    ],
  ])("which would not be so if %s", async (_, plant) => {
    withManyCheckpoints()
    const [, scenario] = scenarios[0]!
    const model = await worker.ask<RunModel>({ do: "run", scenario, files: {} })
    plant()
    await expect(compareSteps(scenario, model.result.timeline.steps.count, 12, 1)).rejects.toThrow(/step \d+/)
  })
})

/** The serving loop of a recording, told what it was told up to its plan number `index`: as `uniprefill-sim replay` does, and no further. */
const driverAt = ({ header, events }: Recording, index: number): Driver => {
  const { layout, schedule, costs, limits, policy } = header
  const named = policyByName(policy.name, policy.options)!
  const driver = new Driver({ ...limits, layout, schedule, costModel: new DeviceCostModel(costs), policy: named })
  let plans = 0
  const count = (actions: Actions) => (plans += actions.plans.length)
  for (const event of events) {
    if (plans > index) break
    if (event.e === "submit") driver.submit(event.submission, event.now)
    else if (event.e === "abort") count(driver.abort(event.id))
    else if (event.e === "finish") count(driver.finish(event.id))
    else if (event.e === "page") driver.pageFilled(event.id, event.key)
    else if (event.e === "tick") count(driver.tick(event.now))
    else if (event.e === "done") count(driver.stepDone(resultOf(event)))
    else if (event.e === "failed") count(driver.stepFailed())
  }
  return driver
}

/** What a loop says of itself, and a look too. */
const heldBy = ({ open, scheduler: { memory }, waiting }: Driver) => ({
  waiting,
  memory: [memory.pool.free, memory.pool.draining, memory.used, memory.reserved, memory.slotsFree, memory.tree.slabs],
  requests: [...open].map(({ id, phase, slot, outputs, progress, keptRows, holdings }) => ({
    row: id - 1,
    phase,
    slot,
    outputs,
    segment: progress.segment,
    computedRows: progress.computedRows,
    keptRows: [...keptRows],
    slabs: holdings.tables.reduce((sum, table) => sum + table.length, 0),
    cachedPages: holdings.cachedPages,
  })),
})

const seenBy = ({ state }: Moment) => ({
  waiting: state.requests.filter(({ phase }) => phase === "waiting").length + state.unlistedWaiting,
  memory: [
    state.memory.free,
    state.memory.draining,
    state.memory.used,
    state.memory.reserved,
    state.memory.slotsFree,
    state.memory.cache.slabs,
  ],
  requests: state.requests.map(
    ({ row, phase, slot, outputs, segment, computedRows, keptRows, slabs, cachedPages }) => ({
      row,
      phase,
      slot,
      outputs,
      segment,
      computedRows,
      keptRows,
      slabs,
      cachedPages,
    }),
  ),
})

describe("any step of a recording in the worker", () => {
  it("is what the recorded loop holds when it is told the same up to there", async () => {
    const taken = withManyCheckpoints()
    const packed = readFileSync(fileURLToPath(new URL("../../../test/golden/cpu.recording.jsonl.gz", import.meta.url)))
    const recording = decodeRecording(gunzipSync(packed).toString())
    const model = await worker.ask<RunModel>({ do: "replay", name: "cpu.recording.jsonl.gz", file: new Blob([packed]) })
    expect(taken.mock.calls.length).toBeGreaterThan(10)
    const { count } = model.result.timeline.steps
    const random = new Random(2, "looks")
    let busiest = 0
    for (let i = 0; i < 40; i++) {
      const index = random.below(count)
      const moment = await worker.look(index, -1)
      expect(moment.state.step).toBe(model.result.timeline.steps.stepId[index])
      expect(seenBy(moment), `step ${index}`).toEqual(heldBy(driverAt(recording, index)))
      busiest = Math.max(busiest, moment.state.requests.length)
    }
    expect(busiest).toBeGreaterThan(3)
  })
})
