import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { SimulatedDevice } from "@uniprefill/executor/simulated/SimulatedDevice"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { RecordedEvent, RecordedInput, RecordingHeader } from "@uniprefill/recording/Recording"
import { resultOf } from "@uniprefill/recording/Replay"
import type { Actions } from "@uniprefill/scheduler/Actions"
import { Driver, type DriverConfig } from "@uniprefill/scheduler/Driver"
import { policyByName } from "@uniprefill/scheduler/policies/PolicyByName"
import type { Policy } from "@uniprefill/scheduler/Policy"
import type { FinishReason, Request } from "@uniprefill/scheduler/Request"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { constantKeep } from "@uniprefill/simulator/model/KeepProfile"
import { SelectionDraw } from "@uniprefill/simulator/model/SelectionDraw"
import type { Inspected } from "@uniprefill/simulator/output/Inspected"
import { PlanHash } from "@uniprefill/simulator/PlanHash"
import type { StepRecord } from "@uniprefill/simulator/Replica"

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
  /** Request of each content that no slot was opened with yet. */
  private readonly contents = new Map<number, number>()
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
    const config: DriverConfig = { ...limits, layout, schedule, costModel: new DeviceCostModel(costs), policy: found }
    this.config = config
    this.draw = new RecordedDraw(schedule)
    this.device = new SimulatedDevice(layout, schedule, limits.slots, this.draw)
    this.driver = new Driver(config)
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
        for (const request of [outcome.request, ...outcome.request.forks]) {
          this.put(request)
          this.events.submitted(request, event.now)
        }
        return
      }
      case "abort":
        return this.perform(driver.abort(event.id))
      case "finish":
        return this.perform(driver.finish(event.id))
      case "page":
        return driver.pageFilled(event.id, event.key)
      case "tick":
        this.now = event.now
        return this.perform(driver.tick(event.now))
      case "done":
        this.resultAt = this.ends.shift() ?? this.now
        return this.perform(driver.stepDone(resultOf(event)))
      case "failed":
        this.ends.length = 0
        this.device.reset()
        return this.perform(driver.stepFailed())
    }
  }

  private put({ id, contentId, promptLength, outputs, drops, bitmaps }: Request): void {
    const content = { key: this.rowOf(id), promptLength, outputs, drops, bitmaps: bitmaps.slice(), stopAt: never }
    this.device.putContent(contentId, content)
    this.contents.set(contentId, id)
  }

  private perform({ tokens, finished, forgets, puts, plans }: Actions): void {
    for (let i = 0; i < tokens.length; i++) this.events.token(tokens.requests[i]!, this.resultAt)
    for (const { request, reason } of finished) {
      this.events.finished(request, reason, Math.max(this.now, this.resultAt))
    }
    for (const id of forgets) {
      this.device.forgetContent(id)
      this.contents.delete(id)
    }
    for (const request of puts) this.put(request)
    for (const plan of plans) this.start(plan)
  }

  private start(plan: StepPlan): void {
    const { device, contents } = this
    const done = this.resultOf(plan.stepId)
    for (let i = 0; i < plan.opens.length; i += 2) {
      const [slot, contentId] = [plan.opens.data[i]!, plan.opens.data[i + 1]!]
      this.draw.slots.set(contents.get(contentId)!, slot)
      contents.delete(contentId)
    }
    this.hash.add(plan)
    this.draw.take(done)
    device.release(device.prepare(plan))
    const plannedMicros = plan.predictedMicros
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
