import type { Calibration } from "@uniprefill/cost-model/Calibration"
import { costModelOf } from "@uniprefill/cost-model/CostModelOf"
import type { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { randomKeep, type KeepModel } from "@uniprefill/executor/simulated/KeepModel"
import { SimulatedDevice } from "@uniprefill/executor/simulated/SimulatedDevice"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout, type KvLayout } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import type { Actions } from "@uniprefill/scheduler/Actions"
import { Driver, type DriverConfig, type SubmitOutcome } from "@uniprefill/scheduler/Driver"
import { fcfs } from "@uniprefill/scheduler/Policy"
import type { FinishReason, Request, Submission } from "@uniprefill/scheduler/Request"
import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { headroom } from "./Headroom.ts"

export interface VirtualOptions {
  readonly spec: ModelSpec
  readonly schedule: DropSchedule
  readonly pageSize?: number
  readonly keep?: KeepModel
  readonly stopAt?: (key: number, index: number) => boolean
  readonly config?: Partial<DriverConfig>
}

/** The serving loop over the simulated executor under a clock that only steps move. Integrity is checked after each. */
export class VirtualServer {
  now = 0
  readonly layout: KvLayout
  readonly config: DriverConfig
  readonly driver: Driver
  readonly outputs = new Map<number, Array<number>>()
  readonly ended = new Map<number, FinishReason>()
  readonly firstTokenAt = new Map<number, number>()
  /** Called with each plan before it runs. */
  inspect: (plan: StepPlan, predictedMicros: number) => void = () => {}
  private readonly device: SimulatedDevice
  /** Steps that the device has been given, the oldest first. */
  private readonly steps: Array<{ readonly plan: StepPlan; readonly result: StepResult }> = []

  constructor(options: VirtualOptions) {
    const { spec, schedule } = options
    this.layout = makeKvLayout(spec, schedule, {
      pageSize: options.pageSize ?? 128,
      kvElementBytes: 2,
      carryElementBytes: 4,
    })
    this.config = {
      layout: this.layout,
      schedule,
      slabs: 100_000,
      slots: 16,
      stateSlots: this.layout.stateSlotBytes > 0 ? 16 : 0,
      maxRowsPerStep: 4096,
      costModel: testCosts(spec, this.layout, schedule.lastQ),
      policy: fcfs,
      stepBudgetMicros: 50_000,
      idleStepBudgetMicros: 500_000,
      maxPrefillWaitMicros: 5_000_000,
      protectAfter: 3,
      protectAfterMicros: 60_000_000,
      headroomTokens: 0,
      maxStepsInFlight: 1,
      maxModelLen: 131_072,
      maxWaiting: 1000,
      maxWaitingTokens: 10_000_000,
      ...options.config,
    }
    const keep = options.keep ?? randomKeep(1, [0.6])
    this.device = new SimulatedDevice(this.layout, schedule, this.config.slots, keep, (key, index) => ({
      token: (key * 31 + index) % 1000,
      stop: options.stopAt?.(key, index) ?? false,
    }))
    this.driver = new Driver(this.config)
  }

  submit(submission: Submission): Request {
    const outcome = this.offer(submission)
    if (outcome._tag !== "Queued") throw new Error(outcome.detail)
    return outcome.request
  }

  offer(submission: Submission): SubmitOutcome {
    const outcome = this.driver.submit(submission, this.now)
    if (outcome._tag === "Queued") for (const one of [outcome.request, ...outcome.request.forks]) this.put(one)
    return outcome
  }

  abort(id: number): void {
    this.perform(this.driver.abort(id))
  }

  private put({ id, contentId, promptLength, outputs, drops, bitmaps }: Request): void {
    const content = { key: id, promptLength, outputs, drops, bitmaps: [...bitmaps], stopAt: -1 }
    this.device.putContent(contentId, content)
  }

  private perform({ tokens, finished, forgets, puts, plans }: Actions): void {
    for (let i = 0; i < tokens.length; i++) {
      const { id, outputs } = tokens.requests[i]!
      const output = this.outputs.get(id) ?? []
      if (output.length !== outputs - 1) throw new Error(`request ${id}: token ${outputs} after ${output.length}`)
      if (output.length === 0) this.firstTokenAt.set(id, this.now)
      output.push(tokens.tokens.data[i]!)
      this.outputs.set(id, output)
    }
    for (const { request, reason } of finished) {
      if (this.ended.has(request.id)) throw new Error(`request ${request.id} ended twice`)
      this.ended.set(request.id, reason)
    }
    for (const id of forgets) this.device.forgetContent(id)
    for (const request of puts) this.put(request)
    for (const plan of plans) {
      const copy = new StepPlan()
      copy.assign(plan)
      this.steps.push({ plan: copy, result: this.device.prepare(plan) })
    }
  }

  /** Plans, and runs the oldest step; false when there is nothing to do. `during` happens while it is in flight. */
  step(during: () => void = () => {}): boolean {
    const actions = this.driver.tick(this.now)
    const fresh = actions.plans.at(-1)
    this.perform(actions)
    this.driver.checkIntegrity()
    if (fresh !== undefined) this.checkWorkConservation(fresh)
    const next = this.steps.shift()
    if (next === undefined) return false
    this.inspect(next.plan, next.plan.predictedMicros)
    during()
    this.now += Math.max(1, next.plan.predictedMicros)
    this.perform(this.driver.stepDone(next.result))
    this.driver.checkIntegrity()
    return true
  }

  /**
   * Nobody waits for nothing: a plan without prefill leaves no prompt waiting whose slot and memory are free, unless one
   * ahead of it is in prefill or the plan's decodes are all that its budget allows.
   */
  private checkWorkConservation(plan: StepPlan): void {
    const { scheduler } = this.driver
    const front = scheduler.waiting.at(0)
    const { policy, slots } = this.driver.settings
    const isFull = slots - scheduler.memory.slotsFree >= (policy.tokenBudget?.maxNumSeqs ?? slots)
    if (isFull) return
    if (front === undefined || policy.order !== undefined || plan.items.length > 0) return
    if (scheduler.prefilling.length > 0) return
    if (scheduler.memory.canAdmit(front, headroom(this.driver, front, this.driver.settings))) {
      throw new Error(`request ${front.id} waits although a slot and its memory are free`)
    }
  }

  /** Fails the steps in flight, as an executor would. */
  fail(): void {
    this.steps.length = 0
    this.device.reset()
    this.perform(this.driver.stepFailed())
    this.driver.checkIntegrity()
  }

  /** Plans and fails at once, where there is something to plan. */
  failNext(): void {
    this.perform(this.driver.tick(this.now))
    if (this.driver.stepInFlight !== 0) this.fail()
  }

  /** Runs until idle. Fails when that takes more than `limit` steps. */
  drain(limit = 100_000): void {
    for (let steps = 0; this.step(); steps++) {
      if (steps >= limit) throw new Error(`not idle after ${limit} steps`)
    }
    if (this.driver.running !== 0 || this.driver.waiting !== 0) throw new Error("idle with requests left")
    const { pool, tree, reserved } = this.driver.scheduler.memory
    if (pool.used !== tree.idleSlabs || reserved !== 0) {
      throw new Error(`leaked ${pool.used - tree.idleSlabs} slabs, ${reserved} reserved`)
    }
    if (this.device.openSlots !== 0) throw new Error(`${this.device.openSlots} slots left open`)
  }
}

/** Round numbers, so that a test's expectations can be followed by hand. */
export const testCalibration: Calibration = {
  format: "uniprefill-calibration",
  version: 3,
  device: "test",
  source: "assumed",
  note: "",
  gemm: [{ at: 1, teraFlops: 0.3 }],
  attention: [{ at: 1, teraFlops: 0.2 }],
  copyTeraBytes: 0.02,
  stepMicros: 50,
  itemMicros: 20,
}

/** What steps of a model in 16 bits take under {@link testCalibration}. */
export const testCosts = (spec: ModelSpec, layout: KvLayout, lastQ: number): DeviceCostModel =>
  costModelOf({ calibration: testCalibration, shape: inSixteenBits(spec), layout, lastQ, maxRowsPerStep: 8192 })
