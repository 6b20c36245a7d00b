import type { Calibration } from "@uniprefill/cost-model/Calibration"
import { costModelOf } from "@uniprefill/cost-model/CostModelOf"
import type { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { randomKeep, type KeepModel } from "@uniprefill/executor/KeepModel"
import { SimulatedRunner } from "@uniprefill/executor/SimulatedRunner"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout, type KvLayout } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { Driver, type DriverConfig } from "@uniprefill/scheduler/Driver"
import { fcfs } from "@uniprefill/scheduler/Policy"
import type { FinishReason, Request, Submission } from "@uniprefill/scheduler/Request"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"

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
  private readonly runner: SimulatedRunner
  /** What the executor is still to do, in order: opening and closing slots, and steps. */
  private lastFresh: unknown = null
  private readonly orders: Array<(() => void) | { readonly plan: StepPlan; readonly micros: number }> = []

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
      maxStepsInFlight: 1,
      maxModelLen: 131_072,
      maxWaiting: 1000,
      maxWaitingTokens: 10_000_000,
      ...options.config,
    }
    this.runner = new SimulatedRunner({
      layout: this.layout,
      schedule,
      keep: options.keep ?? randomKeep(1, [0.6]),
      token: (key, index) => ({ token: (key * 31 + index) % 1000, stop: options.stopAt?.(key, index) ?? false }),
    })
    this.driver = new Driver(this.config, {
      openSlot: (request) => {
        const content = {
          slot: request.slot,
          key: request.id,
          promptLength: request.promptLength,
          outputs: request.outputs,
          drops: request.drops,
          bitmaps: [...request.bitmaps],
        }
        this.orders.push(() => this.runner.openSlot(content))
      },
      closeSlot: (slot) => {
        this.orders.push(() => this.runner.closeSlot(slot))
      },
      submit: (plan) => {
        this.orders.push({ plan, micros: this.driver.scheduler.plannedMicros })
      },
      token: (request, token, index) => {
        const output = this.outputs.get(request.id) ?? []
        if (output.length !== index) throw new Error(`request ${request.id}: token ${index} after ${output.length}`)
        if (index === 0) this.firstTokenAt.set(request.id, this.now)
        output.push(token)
        this.outputs.set(request.id, output)
      },
      selected: () => {},
      finished: (request, reason) => {
        if (this.ended.has(request.id)) throw new Error(`request ${request.id} ended twice`)
        this.ended.set(request.id, reason)
      },
    })
  }

  submit(submission: Submission): Request {
    const outcome = this.driver.submit(submission, this.now)
    if (outcome._tag !== "Queued") throw new Error(outcome.detail)
    return outcome.request
  }

  /** Plans, and runs the oldest step; false when there is nothing to do. `during` happens while it is in flight. */
  step(during: () => void = () => {}): boolean {
    this.driver.tick(this.now)
    this.driver.checkIntegrity()
    const fresh = this.orders.findLast((order) => typeof order !== "function")
    if (fresh !== undefined && fresh !== this.lastFresh) this.checkWorkConservation(fresh.plan)
    this.lastFresh = fresh ?? null
    const next = this.runOrders()
    if (next === null) return false
    this.inspect(next.plan, next.micros)
    const result = this.runner.step(next.plan)
    during()
    this.now += Math.max(1, next.micros)
    this.driver.stepDone(result)
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
    const { policy, slots } = this.config
    const isFull = slots - scheduler.memory.slotsFree >= (policy.tokenBudget?.maxNumSeqs ?? slots)
    if (isFull) return
    if (front === undefined || policy.order !== undefined || plan.items.length > 0) return
    if (scheduler.prefilling.length === 0 && scheduler.memory.canAdmit(front)) {
      throw new Error(`request ${front.id} waits although a slot and its memory are free`)
    }
  }

  /** Opens and closes slots up to the next step, and returns that. */
  private runOrders(): { readonly plan: StepPlan; readonly micros: number } | null {
    for (;;) {
      const order = this.orders.shift()
      if (order === undefined) return null
      if (typeof order !== "function") return order
      order()
    }
  }

  /** Fails the steps in flight, as an executor would. */
  fail(): void {
    for (let i = this.orders.length - 1; i >= 0; i--) if (typeof this.orders[i] !== "function") this.orders.splice(i, 1)
    this.driver.stepFailed()
    this.driver.checkIntegrity()
  }

  /** Runs until idle. Fails when that takes more than `limit` steps. */
  drain(limit = 100_000): void {
    for (let steps = 0; this.step(); steps++) {
      if (steps >= limit) throw new Error(`not idle after ${limit} steps`)
    }
    this.runOrders()
    if (this.driver.running !== 0 || this.driver.waiting !== 0) throw new Error("idle with requests left")
    const { pool, cache, reserved } = this.driver.scheduler.memory
    if (pool.used !== cache.idleSlabs || reserved !== 0) {
      throw new Error(`leaked ${pool.used - cache.idleSlabs} slabs, ${reserved} reserved`)
    }
    if (this.runner.openSlots !== 0) throw new Error(`${this.runner.openSlots} slots left open`)
  }
}

/** Round numbers, so that a test's expectations can be followed by hand. */
export const testCalibration: Calibration = {
  format: "uniprefill-calibration",
  version: 2,
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
