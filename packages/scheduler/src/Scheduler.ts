import type { ActionList } from "./Actions.ts"
import { Commit } from "./Commit.ts"
import { Departures } from "./Departures.ts"
import type { Memory } from "./Memory.ts"
import { addDone, defaultChunkRows } from "./Prefill.ts"
import { PrefillStage } from "./PrefillStage.ts"
import { Relief } from "./Relief.ts"
import type { Request } from "./Request.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { ServingState } from "./ServingState.ts"
import { StepLoad, windowsOf } from "./StepLoad.ts"
import { ItemField, sectionWidths, type StepPlan } from "./StepPlan.ts"
import type { StepResult } from "./StepResult.ts"
import type { WaitingQueue } from "./WaitingQueue.ts"

/** What a step in flight was predicted to take. */
interface Forecast {
  /** µs, before correction. */
  micros: number
  /** The step's work, where a selection on an item's way may leave less of it. */
  readonly load: StepLoad
  isOpen: boolean
}

/**
 * Continuous batching with token-dropping prefill.
 *
 * A step holds every decoding request's row and as much prefill as its time budget allows:
 *
 *     waiting ─admit─▶ prefill: segment 0 in chunks ─select─▶ segment 1 … ─▶ first token ─▶ decode ─▶ finished
 *
 * `plan` fills a StepPlan and moves progress ahead; `commit` takes the step's result. What a step in flight decides
 * (a kept set) stops its request's prefill until the commit, so with one or two steps in flight the plans are the same kind.
 */
export class Scheduler {
  readonly state: ServingState
  private readonly departures: Departures
  private readonly relief: Relief
  private readonly prefill: PrefillStage
  private readonly committing: Commit
  /** Of the steps in flight, of step n in forecast n modulo their number. */
  private readonly forecasts: ReadonlyArray<Forecast>

  constructor(config: SchedulerConfig, maxStepsInFlight: number) {
    const { chunkRows = defaultChunkRows } = config
    if (config.maxRowsPerStep < config.slots + chunkRows) {
      const least = config.slots + chunkRows
      throw new RangeError(
        `maxRowsPerStep must be at least slots + ${chunkRows} = ${least}, got ${config.maxRowsPerStep}`,
      )
    }
    const { tokenBudget } = config.policy
    if (tokenBudget !== undefined && tokenBudget.maxNumBatchedTokens < tokenBudget.maxNumSeqs + chunkRows) {
      const least = tokenBudget.maxNumSeqs + chunkRows
      throw new RangeError(
        `maxNumBatchedTokens must be at least maxNumSeqs + ${chunkRows} = ${least}, got ${tokenBudget.maxNumBatchedTokens}`,
      )
    }
    const { layout } = config
    this.forecasts = Array.from({ length: maxStepsInFlight }, () => ({
      micros: 0,
      load: new StepLoad(layout.segments.length, windowsOf(layout)),
      isOpen: false,
    }))
    this.state = new ServingState(config)
    this.departures = new Departures(this.state)
    this.relief = new Relief(this.state, this.departures)
    this.prefill = new PrefillStage(this.state)
    this.committing = new Commit(this.state, this.departures, this.prefill)
  }

  /** From the next plan on: another policy, other budgets and waits. Requires memory, slots and rows as they were. */
  configure(config: SchedulerConfig): void {
    this.state.configure(config)
  }

  get memory(): Memory {
    return this.state.memory
  }

  get waiting(): WaitingQueue {
    return this.state.waiting
  }

  /** Admitted, prompt not done; in order of admission. */
  get prefilling(): ReadonlyArray<Request> {
    return this.state.prefilling
  }

  /** The requests that decode. */
  get decoding(): ReadonlyArray<Request> {
    return this.state.decodes.members
  }

  /** Prompt tokens of all that wait. */
  get waitingTokens(): number {
    return this.state.waiting.tokens
  }

  get preemptions(): number {
    return this.state.preemptions
  }

  /** Times that a prompt was given a chunk beyond the budget. */
  get overBudgetChunks(): number {
    return this.prefill.overBudgetChunks
  }

  /** The request that has a slot; null for a slot that nobody has. */
  requestAt(slot: number): Request | null {
    return this.state.slots.at(slot)
  }

  /** Whether a plan made now would hold any work. */
  get hasWork(): boolean {
    const { forks, decodes, waiting, prefilling, memory } = this.state
    return (
      decodes.members.length + decodes.joining.length + waiting.length + prefilling.length > 0 ||
      forks.waiting ||
      memory.prefixes.hasNews ||
      this.departures.hasNews
    )
  }

  /** Queues requests: one, with its forks. */
  enqueue(request: Request): void {
    const { state } = this
    for (const one of [request, ...request.forks]) {
      state.requests.set(one.id, one)
      one.account.tenant = state.tenants.enter(one.tenant)
      one.contentId = state.nextContentId()
    }
    state.enqueue(request)
  }

  /** Fills `plan`, which is cleared first, and returns whether it holds anything to do. Adds contents to be put to `actions`. */
  plan(plan: StepPlan, stepId: number, nowMicros: number, actions: ActionList): boolean {
    const { state, departures, relief } = this
    const { memory, decodes, load } = state
    plan.clear(stepId)
    state.turns.begin(nowMicros)
    // What waited for its forks waits no longer when they have ended.
    departures.settle(actions)
    decodes.expire()
    memory.prefixes.retain(plan)
    memory.saveStates(plan)
    state.forks.plan(plan, decodes.joining)
    relief.forFront(nowMicros, actions)
    relief.forPaused(nowMicros, actions)
    relief.forUrgent(nowMicros, actions)
    relief.growDecodes(plan, nowMicros, actions)
    decodes.joinEarly(state.prefilling, plan)
    decodes.planLeaves(plan)
    departures.planCloses(plan)
    memory.begin(plan)
    decodes.planRows(plan)
    load.clearPrefill()
    this.prefill.plan(plan, nowMicros, actions)
    if (load.decodeRows === 0 && plan.items.length === 0 && !plan.lists.some((list) => list.length > 0)) return false
    this.predict(plan)
    return true
  }

  /** Applies a step's result: `actions` gets its selections and tokens. `plan` is the plan it answers. */
  commit(plan: StepPlan, result: StepResult, actions: ActionList): void {
    this.committed(plan.stepId)
    this.committing.selections(result, actions)
    this.compare(plan, result.deviceMicros)
    this.committing.items(plan)
    this.committing.tokens(plan, result, actions)
  }

  /** Lets go of requests that have left and that no step in flight holds any more: the end of every change. */
  settle(actions: ActionList): void {
    this.departures.settle(actions)
  }

  /** Says that everything up to `stepId` is over, without a result: the steps in flight are void. */
  committed(stepId: number): void {
    this.state.committedStep = stepId
    this.state.memory.committed(stepId)
  }

  /** A request has ended: nothing more is planned for it, and {@link settle} lets go of it. */
  leave(request: Request): void {
    this.prefill.forget(request)
    this.departures.leave(request)
  }

  /** After a step failed and every request with a slot has left: the executor has forgotten everything. */
  reset(): void {
    this.departures.reset()
    this.state.decodes.reset()
    this.state.memory.reset()
  }

  private forecastOf({ stepId }: StepPlan): Forecast {
    return this.forecasts[stepId % this.forecasts.length]!
  }

  private predict(plan: StepPlan): void {
    const { load, budget } = this.state
    const forecast = this.forecastOf(plan)
    const { data, length } = plan.items
    forecast.micros = budget.uncorrected(load)
    if (load.decodeRows + length > 0) plan.predictedMicros = budget.corrected(forecast.micros, length > 0)
    forecast.isOpen = false
    for (let i = 0; i < length && !forecast.isOpen; i += sectionWidths.items)
      forecast.isOpen = data[i + ItemField.lastSegment]! > data[i + ItemField.firstSegment]!
    if (forecast.isOpen) forecast.load.assign(load)
  }

  /** Predictions follow measurement: what the step took, and what it would have been predicted to take, selections known. */
  private compare(plan: StepPlan, deviceMicros: number): void {
    if (deviceMicros <= 0) return
    const { budget } = this.state
    const forecast = this.forecastOf(plan)
    const { data, length } = plan.items
    for (let i = 0; i < length; i += sectionWidths.items) if (this.requestAt(data[i + ItemField.slot]!) === null) return
    if (forecast.isOpen) forecast.micros = budget.uncorrected(this.loadDone(plan, forecast.load))
    budget.measured(forecast.micros, length > 0, deviceMicros)
  }

  /** A step's work as it turned out, with the rows that its selections kept, in place of what was planned. */
  private loadDone({ items: { data, length } }: StepPlan, load: StepLoad): StepLoad {
    load.clearPrefill()
    for (let i = 0; i < length; i += sectionWidths.items) {
      addDone(this.requestAt(data[i + ItemField.slot]!)!, this.state.config.layout, load, {
        firstRow: data[i + ItemField.firstRow]!,
        rows: data[i + ItemField.rows]!,
        firstSegment: data[i + ItemField.firstSegment]!,
        lastSegment: data[i + ItemField.lastSegment]!,
      })
    }
    return load
  }
}
