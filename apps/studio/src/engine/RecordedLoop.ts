import {
  costModelOf,
  type RecordedEvent,
  type RecordedInput,
  type RecordingHeader,
} from "@uniprefill/executor/recording/Recording"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { Driver, type DriverConfig, type DriverSink } from "@uniprefill/scheduler/Driver"
import { policyByName } from "@uniprefill/scheduler/policies/PolicyByName"
import type { Policy } from "@uniprefill/scheduler/Policy"
import type { FinishReason, Request } from "@uniprefill/scheduler/Request"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { StepResult } from "@uniprefill/scheduler/StepResult"
import { constantKeep } from "@uniprefill/simulator/model/KeepProfile"
import { SelectionDraw } from "@uniprefill/simulator/model/SelectionDraw"
import type { Inspected } from "@uniprefill/simulator/output/Inspected"
import { PlanHash } from "@uniprefill/simulator/PlanHash"
import type { StepRecord } from "@uniprefill/simulator/Replica"
import { SimulatedDevice } from "@uniprefill/simulator/SimulatedDevice"

type Done = RecordedInput & { readonly e: "done" }

export interface RecordedLoopEvents {
  readonly submitted: (request: Request, nowMicros: number) => void
  readonly stepStarted: (step: StepRecord, endMicros: number, nowMicros: number) => void
  readonly token: (request: Request, micros: number) => void
  readonly finished: (request: Request, reason: FinishReason, micros: number) => void
}

/** A longer output than any: where an output ends is in the recording. */
const never = 2_000_000_000

/**
 * A recorded serving loop, replayed event by event: the same `Driver`, told what it was told. A step takes the time that was
 * measured, from when it was planned or from the end of the step before.
 */
export class RecordedLoop implements Inspected {
  readonly index = 0
  readonly readBackMicros = 0
  readonly driver: Driver
  readonly config: Inspected["config"]
  readonly device: SimulatedDevice
  readonly hash = new PlanHash()
  /** Why this build's loop cannot follow the recording any further; empty as long as it can. */
  fault = ""
  /** Plans made so far. */
  steps = 0
  now = 0
  /** What the loop was told, in order. */
  readonly inputs: ReadonlyArray<RecordedInput>
  private readonly events: RecordedLoopEvents
  private readonly draw: RecordedDraw
  private next = 0
  private calls = 0
  private deviceFree = 0
  /** When the steps in flight end, the oldest first. */
  private readonly ends: Array<number> = []
  /** When the result that is being taken came. */
  private resultAt = 0

  /** Fails with RangeError for a policy that is not part of this build. */
  constructor(header: RecordingHeader, events: ReadonlyArray<RecordedEvent>, listener: RecordedLoopEvents) {
    const { layout, schedule, costs, limits, policy } = header
    const found = policyByName(policy.name, policy.options)
    if (found === undefined)
      throw new RangeError(`the recording was made with policy ${policy.name}, a module that is not part of this page`)
    this.inputs = events.filter((event) => event.e !== "plan")
    this.events = listener
    const config: DriverConfig = { ...limits, layout, schedule, costModel: costModelOf(costs), policy: found }
    this.config = config
    this.draw = new RecordedDraw(schedule)
    this.device = new SimulatedDevice(layout, schedule, limits.slots, this.draw)
    this.driver = new Driver(config, this.sink())
  }

  get isDone(): boolean {
    return this.next >= this.inputs.length || this.fault !== ""
  }

  /** Events taken, of all. */
  get taken(): number {
    return this.next
  }

  get total(): number {
    return this.inputs.length
  }

  get policy(): Policy {
    return this.driver.settings.policy
  }

  get budgetMicros(): number {
    const { stepBudgetMicros, idleStepBudgetMicros } = this.driver.settings
    return this.device.load.decodeRows > 0 ? stepBudgetMicros : idleStepBudgetMicros
  }

  rowOf(id: number): number {
    return id - 1
  }

  rowName(id: number): string {
    return `request ${id}`
  }

  /** Takes the next `count` events. */
  advance(count: number): void {
    for (let i = 0; i < count && !this.isDone; i++) {
      try {
        this.take(this.inputs[this.next++]!)
      } catch (error) {
        this.fault = `event ${this.next} of ${this.inputs.length}: ${error instanceof Error ? error.message : String(error)}`
      }
    }
  }

  private take(event: RecordedInput): void {
    const { driver } = this
    switch (event.e) {
      case "submit": {
        this.now = event.now
        const outcome = driver.submit(event.submission, event.now)
        if (outcome._tag !== "Queued") return
        for (const request of [outcome.request, ...outcome.request.forks]) this.events.submitted(request, event.now)
        return
      }
      case "abort":
        return driver.abort(event.id)
      case "finish":
        return driver.finish(event.id, event.outputs)
      case "page":
        return driver.pageFilled(event.id, event.key)
      case "tick":
        this.now = event.now
        return driver.tick(event.now)
      case "done":
        this.resultAt = this.ends.shift() ?? this.now
        return driver.stepDone(resultOf(event))
      case "failed":
        this.ends.length = 0
        return driver.stepFailed()
    }
  }

  private sink(): DriverSink {
    const within = (call: () => void) => {
      const number = ++this.calls
      call()
      for (let event = this.inputs[this.next]; event?.at === number; event = this.inputs[this.next]) {
        this.next++
        this.take(event)
      }
    }
    return {
      openSlot: (request) =>
        within(() => {
          this.draw.slots.set(request.id, request.slot)
          this.device.openSlot(request, this.rowOf(request.id), never)
        }),
      closeSlot: (slot) => within(() => this.device.closeSlot(slot)),
      submit: (plan) => within(() => this.start(plan)),
      token: (request) => within(() => this.events.token(request, this.resultAt)),
      selected: () => within(() => {}),
      finished: (request, reason) =>
        within(() => this.events.finished(request, reason, Math.max(this.now, this.resultAt))),
    }
  }

  private start(plan: StepPlan): void {
    const { device, driver } = this
    const done = this.resultOf(plan.stepId)
    this.hash.add(plan)
    this.draw.take(done)
    device.release(device.prepare(plan))
    const plannedMicros = driver.scheduler.plannedMicros
    const deviceMicros = done?.deviceMicros ?? plannedMicros
    const startMicros = Math.max(this.now, this.deviceFree)
    this.deviceFree = startMicros + Math.max(1, deviceMicros)
    this.ends.push(this.deviceFree)
    const step = { plan, plannedMicros, startMicros, deviceMicros, failed: done === undefined }
    this.steps++
    this.events.stepStarted(step, this.deviceFree, this.now)
  }

  /** The result that came for a step planned now: none where it failed, or where the recording ends before. */
  private resultOf(step: number): Done | undefined {
    for (let i = this.next; i < this.inputs.length; i++) {
      const event = this.inputs[i]!
      if (event.e === "failed") return undefined
      if (event.e === "done" && event.step === step) return event
    }
    return undefined
  }
}

/** Gives the selections that were recorded for the step being prepared. */
class RecordedDraw extends SelectionDraw {
  /** The slot that each request had last. */
  readonly slots = new Map<number, number>()
  private readonly selections = new Map<string, Uint32Array>()

  constructor(schedule: DropSchedule) {
    super(0, constantKeep([1]), schedule.dropLayers.length)
  }

  take(done: Done | undefined): void {
    this.selections.clear()
    const recorded = done?.selections ?? []
    for (let i = 0; i < recorded.length;) {
      const [slot, segment, , words] = [recorded[i]!, recorded[i + 1]!, recorded[i + 2]!, recorded[i + 3]!]
      this.selections.set(`${slot}:${segment}`, Uint32Array.from(recorded.slice(i + 4, i + 4 + words)))
      i += 4 + words
    }
  }

  override select(...[row, promptTokens, segment, shape]: Parameters<SelectionDraw["select"]>): Uint32Array {
    const slot = this.slots.get(row + 1)
    return this.selections.get(`${slot}:${segment}`) ?? super.select(row, promptTokens, segment, shape)
  }
}

const resultOf = (event: Done): StepResult => {
  const result = new StepResult()
  result.clear(event.step)
  result.deviceMicros = event.deviceMicros
  const flags = new Map<number, number>()
  for (let i = 0; i < event.flags.length; i += 2) flags.set(event.flags[i]!, event.flags[i + 1]!)
  for (const [place, slot] of event.slots.entries()) result.tokens.push3(slot, 0, flags.get(place) ?? 0)
  result.selections.pushAll(event.selections)
  return result
}
