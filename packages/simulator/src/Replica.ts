import type { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { CountedResult, SimulatedDevice } from "@uniprefill/executor/simulated/SimulatedDevice"
import type { Actions, TokenList } from "@uniprefill/scheduler/Actions"
import { Driver, type DriverConfig, type SubmitOutcome } from "@uniprefill/scheduler/Driver"
import { IntList } from "@uniprefill/scheduler/IntList"
import type { Policy } from "@uniprefill/scheduler/Policy"
import type { FinishReason, Request, Submission } from "@uniprefill/scheduler/Request"
import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Random } from "@uniprefill/units/Random"
import type { Change } from "./Change.ts"
import { SelectionDraw } from "./model/SelectionDraw.ts"
import { PlanHash } from "./PlanHash.ts"
import type { ReplicaLoad } from "./Router.ts"
import type { Setup } from "./Setup.ts"

/** A step from its plan to its end. Used again for a later one: who wants to keep it copies it. */
export interface StepRecord {
  readonly plan: StepPlan
  readonly plannedMicros: number
  readonly startMicros: number
  readonly deviceMicros: number
  readonly failed: boolean
}

class StepInFlight implements StepRecord {
  plan = new StepPlan()
  result = new CountedResult()
  plannedMicros = 0
  startMicros = 0
  deviceMicros = 0
  failed = false
}

export interface ReplicaEvents {
  readonly tokens: (replica: Replica, tokens: TokenList) => void
  readonly selected: (row: number, segment: number, kept: number) => void
  readonly finished: (row: number, request: Request, reason: FinishReason) => void
  /** A step was handed to the device, which ends it at `endMicros`. `device.load` is its work. */
  readonly stepStarted: (replica: Replica, step: StepRecord, endMicros: number) => void
}

/** Of every request that has none yet. */
const noBitmaps: ReadonlyArray<Uint32Array> = []

/** One serving loop over one simulated device group: the production Driver and what its executor would do. */
export class Replica implements ReplicaLoad {
  readonly index: number
  readonly driver: Driver
  readonly device: SimulatedDevice
  readonly config: DriverConfig & { readonly costModel: DeviceCostModel }
  readonly hash = new PlanHash()
  outstanding = 0
  outstandingTokens = 0
  isDown = false
  /** Multiplies the time of steps to come. */
  slowFactor = 1
  private readonly draw: SelectionDraw
  private readonly setup: Setup
  private readonly events: ReplicaEvents
  private readonly faults: Random
  /** The steps in flight, from `oldest` on and around. */
  private readonly steps: ReadonlyArray<StepInFlight>
  private oldest = 0
  private inFlight = 0
  /** Workload row of each request of the loop, by its id. */
  private readonly rows = IntList.from([-1])
  private readonly stopAt: Int32Array
  private deviceFreeMicros = 0
  private now = 0

  constructor(
    index: number,
    setup: Setup,
    config: DriverConfig & { readonly costModel: DeviceCostModel },
    stopAt: Int32Array,
    events: ReplicaEvents,
  ) {
    this.index = index
    this.setup = setup
    this.config = config
    this.events = events
    this.stopAt = stopAt
    this.steps = Array.from({ length: config.maxStepsInFlight }, () => new StepInFlight())
    this.faults = new Random(setup.seed, `faults-${index}`)
    this.draw = new SelectionDraw(setup.seed, setup.keep, setup.schedule.dropLayers.length, setup.sloKeep)
    this.device = new SimulatedDevice(config.layout, setup.schedule, config.slots, this.draw)
    this.driver = new Driver(config)
  }

  submit(row: number, submission: Submission, nowMicros: number): SubmitOutcome {
    const outcome = this.driver.submit(submission, nowMicros)
    if (outcome._tag !== "Queued") return outcome
    const { id } = outcome.request
    if (id >= this.rows.length) this.rows.extend(id + 1 - this.rows.length)
    this.rows.data[id] = row
    this.put(outcome.request)
    this.outstanding++
    this.outstandingTokens += submission.promptLength
    return outcome
  }

  abort(id: number): void {
    this.perform(this.driver.abort(id))
  }

  /** The oldest step in flight has ended, well or not. Returns whether it failed. */
  stepEnded(): boolean {
    const { driver, device } = this
    const { failed, result } = this.takeOldest()
    if (!failed) {
      this.perform(driver.stepDone(result))
      device.release(result)
      return false
    }
    device.release(result)
    while (this.inFlight > 0) device.release(this.takeOldest().result)
    device.reset()
    this.perform(driver.stepFailed())
    this.isDown = true
    return true
  }

  private takeOldest(): StepInFlight {
    const step = this.steps[this.oldest]!
    this.oldest = (this.oldest + 1) % this.steps.length
    this.inFlight--
    return step
  }

  /** Back after a failure: the device starts empty. */
  recover(nowMicros: number): void {
    this.isDown = false
    this.deviceFreeMicros = nowMicros
  }

  /** What is planned and drawn from here on follows a change. */
  change({ adjustment, keep }: Change): void {
    if (Object.keys(adjustment).length > 0) this.driver.adjust(adjustment)
    if (keep !== undefined) this.draw.profile = keep
  }

  /** Row of the workload of a request of the loop. */
  rowOf(id: number): number {
    return this.rows.data[id]!
  }

  /** The policy in force. */
  get policy(): Policy {
    return this.driver.settings.policy
  }

  /** Time that the step prepared last may be predicted to take. */
  get budgetMicros(): number {
    const { stepBudgetMicros, idleStepBudgetMicros } = this.driver.settings
    return this.device.load.decodeRows > 0 ? stepBudgetMicros : idleStepBudgetMicros
  }

  get readBackMicros(): number {
    // A calibration that has measured selections has the reading in them.
    const { readBackMicros } = this.config.costModel.costs.calibration
    return readBackMicros === undefined ? this.setup.host.readBackMicros : 0
  }

  /** Steps whose end is still to come. */
  get stepsInFlight(): number {
    return this.inFlight
  }

  tick(nowMicros: number): void {
    if (this.isDown) return
    this.now = nowMicros
    this.perform(this.driver.tick(nowMicros))
  }

  private put({ id, contentId, promptLength, outputs, drops, bitmaps, account }: Request): void {
    const row = this.rows.data[id]!
    this.device.putContent(contentId, {
      key: row,
      promptLength,
      outputs,
      drops,
      isLowered: account.isLowered,
      bitmaps: bitmaps.length === 0 ? noBitmaps : bitmaps.slice(),
      stopAt: this.stopAt[row]!,
    })
  }

  private perform({ selections, tokens, finished, forgets, puts, plans }: Actions): void {
    const { device, events, rows } = this
    for (let i = 0; i < selections.length; i++) {
      const { request, segment, kept } = selections[i]!
      events.selected(rows.data[request.id]!, segment, kept)
    }
    events.tokens(this, tokens)
    for (let i = 0; i < finished.length; i++) this.onFinished(finished[i]!.request, finished[i]!.reason)
    for (let i = 0; i < forgets.length; i++) device.forgetContent(forgets[i]!)
    for (let i = 0; i < puts.length; i++) this.put(puts[i]!)
    for (let i = 0; i < plans.length; i++) this.start(plans[i]!)
  }

  private start(plan: StepPlan): void {
    const { setup, device, config, faults } = this
    const { host } = setup
    this.hash.add(plan)
    const step = this.steps[(this.oldest + this.inFlight++) % this.steps.length]!
    step.plan = plan
    step.result = device.prepare(plan)
    let micros = config.costModel.stepMicros(device.load) + device.readBacks * this.readBackMicros
    if (setup.faults.slowSteps > 0 && faults.unit() < setup.faults.slowSteps)
      micros = Math.round(micros * setup.faults.slowFactor)
    if (this.slowFactor !== 1) micros = Math.round(micros * this.slowFactor)
    step.failed = setup.faults.failedSteps > 0 && faults.unit() < setup.faults.failedSteps
    step.plannedMicros = plan.predictedMicros
    step.startMicros = Math.max(this.now + host.stepMicros, this.deviceFreeMicros)
    step.deviceMicros = micros
    step.result.deviceMicros = micros
    const endMicros = step.startMicros + Math.max(1, micros)
    this.deviceFreeMicros = endMicros
    this.events.stepStarted(this, step, endMicros)
  }

  private onFinished(request: Request, reason: FinishReason): void {
    this.outstanding--
    this.outstandingTokens -= request.promptLength
    this.events.finished(this.rows.data[request.id]!, request, reason)
  }
}
