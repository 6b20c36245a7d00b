import { RooflineCostModel } from "@uniprefill/cost-model/RooflineCostModel"
import { randomKeep, type KeepModel } from "@uniprefill/executor/KeepModel"
import { SimulatedRunner } from "@uniprefill/executor/SimulatedRunner"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout, type KvLayout } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { segmentWork } from "@uniprefill/model/Work"
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
  private submitted: StepPlan | null = null

  constructor(options: VirtualOptions) {
    const { spec, schedule } = options
    this.layout = makeKvLayout(spec, schedule, { pageSize: options.pageSize ?? 128, kvElementBytes: 2, carryElementBytes: 4 })
    this.config = {
      layout: this.layout,
      schedule,
      slabs: 100_000,
      slots: 16,
      stateSlots: this.layout.stateSlotBytes > 0 ? 16 : 0,
      maxRowsPerStep: 4096,
      costModel: new RooflineCostModel(segmentWork(spec, this.layout, { weight: 2, kv: 2 }), testTable, schedule.lastQ),
      policy: fcfs,
      stepBudgetMicros: 50_000,
      idleStepBudgetMicros: 500_000,
      maxPrefillWaitMicros: 5_000_000,
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
      openSlot: (request) =>
        this.runner.openSlot({
          slot: request.slot,
          key: request.id,
          promptLength: request.promptLength,
          outputs: request.outputs,
          drops: request.drops,
          bitmaps: request.bitmaps,
        }),
      closeSlot: (slot) => this.runner.closeSlot(slot),
      submit: (plan) => {
        this.submitted = plan
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

  /** Plans and runs one step; false when there is nothing to do. `during` happens while the step is in flight. */
  step(during: () => void = () => {}): boolean {
    this.driver.tick(this.now)
    const plan = this.submitted
    if (plan === null) return false
    this.submitted = null
    const micros = this.driver.scheduler.plannedMicros
    this.inspect(plan, micros)
    const result = this.runner.step(plan)
    this.driver.checkIntegrity()
    during()
    this.now += Math.max(1, micros)
    this.driver.stepDone(result)
    this.driver.checkIntegrity()
    return true
  }

  /** Runs until idle. Fails when that takes more than `limit` steps. */
  drain(limit = 100_000): void {
    for (let steps = 0; this.step(); steps++) {
      if (steps >= limit) throw new Error(`not idle after ${limit} steps`)
    }
    if (this.driver.running !== 0 || this.driver.waiting !== 0) throw new Error("idle with requests left")
    const { pool, reserved } = this.driver.scheduler.memory
    if (pool.free !== pool.total || reserved !== 0) throw new Error(`leaked ${pool.used} slabs, ${reserved} reserved`)
    if (this.runner.openSlots !== 0) throw new Error(`${this.runner.openSlots} slots left open`)
  }
}

/** Round numbers, so that a test's expectations can be followed by hand. */
export const testTable = {
  format: "uniprefill-cost-model",
  version: 1,
  device: "test",
  source: "assumed",
  gemmFlopsPerMicro: 300_000,
  attentionFlopsPerMicro: 200_000,
  bytesPerMicro: 20_000,
  stepMicros: 50,
  itemMicros: 20,
} as const
