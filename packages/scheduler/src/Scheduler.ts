import { keptRows } from "@uniprefill/model/Selection"
import { type CostModel, tokenCount } from "./CostModel.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
import { Memory } from "./Memory.ts"
import { completesSegment, largestChunk, smallestChunk, takeBack, type PrefillChunk } from "./Prefill.ts"
import { Ranking } from "./Ranking.ts"
import { removeFrom, type Request } from "./Request.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import type { CommitSink, PlanSink } from "./SchedulerSink.ts"
import { StepLoad } from "./StepLoad.ts"
import { ItemField, sectionWidths, type StepPlan } from "./StepPlan.ts"
import { SelectionFlag, type StepResult } from "./StepResult.ts"
import { outputCharge, Tenants } from "./Tenants.ts"

/**
 * Continuous batching with token-dropping prefill.
 *
 * A step holds every decoding request's row and as much prefill as its time budget allows:
 *
 *     waiting ─admit─▶ prefill: segment 0 in chunks ─select─▶ segment 1 … ─▶ first token ─▶ decode ─▶ finished
 *
 * `plan` fills a StepPlan and moves progress ahead; `commit` takes the step's result. What a step in flight decides
 * (a kept set) stops its request until the commit, so with one or two steps in flight the plans are the same kind.
 */
export class Scheduler {
  readonly memory: Memory
  readonly tenants = new Tenants()
  /** In order of arrival. */
  readonly waiting: Array<Request> = []
  /** Admitted, prompt not done; in order of admission. */
  readonly prefilling: Array<Request> = []
  /** The decode set. */
  readonly decoding: Array<Request> = []
  /** Prompt tokens of `waiting`. */
  waitingTokens = 0
  /** Predicted time of the last plan. */
  plannedMicros = 0
  /** Times that a starved prompt was given a chunk beyond the budget. */
  overBudgetChunks = 0
  preemptions = 0
  /** The last step whose result was applied. */
  committedStep = 0
  private readonly config: SchedulerConfig
  private readonly load: StepLoad
  private readonly bySlot: Array<Request | null>
  private readonly joining: Array<Request> = []
  private readonly leaving: Array<Request> = []
  /** Their last row is planned: they leave the decode set with the next plan, unless they are gone by then. */
  private readonly expiring: Array<Request> = []
  /** Preempted, with work in flight. */
  private readonly preempting: Array<Request> = []
  /** Scratch: requests whose next decode row needs a page. */
  private readonly needy: Array<Request> = []
  /** Requests may still be admitted in the plan being made. */
  private admitting = false
  /** Requests that came, went or gave up a slot; with two numbers of memory: whether asking again could admit anyone. */
  private queueChanges = 0
  private readonly refused = { queueChanges: -1, unreserved: 0, cachedSlabs: 0 }
  /** What a step is measured by while prefill is added to it, and how much of that it may take; idle: without decodes. */
  private readonly measure: CostModel
  private readonly budget: number
  private readonly idleBudget: number
  private readonly maxRunning: number
  private readonly ranking: Ranking

  constructor(config: SchedulerConfig) {
    if (config.maxRowsPerStep < config.slots + 64) {
      throw new RangeError(
        `maxRowsPerStep must be at least slots + 64 = ${config.slots + 64}, got ${config.maxRowsPerStep}`,
      )
    }
    this.config = config
    this.memory = new Memory(config.layout, config.slabs, config.slots, config.stateSlots, config.maxRowsPerStep)
    this.load = new StepLoad(config.layout.segments.length)
    this.ranking = new Ranking(config)
    const tokens = config.policy.tokenBudget
    this.measure = tokens === undefined ? config.costModel : tokenCount
    this.budget = tokens?.maxNumBatchedTokens ?? config.stepBudgetMicros
    this.idleBudget = tokens?.maxNumBatchedTokens ?? config.idleStepBudgetMicros
    this.maxRunning = Math.min(config.slots, tokens?.maxNumSeqs ?? config.slots)
    this.bySlot = new Array<Request | null>(config.slots).fill(null)
  }

  /** Puts a request into the queue at its place in order of arrival. */
  enqueue(request: Request): void {
    let at = this.waiting.length
    while (at > 0 && this.waiting[at - 1]!.id > request.id) at--
    this.waiting.splice(at, 0, request)
    this.waitingTokens += request.promptLength
    this.queueChanges++
  }

  /** Whether a plan made now would hold any work. */
  get hasWork(): boolean {
    return (
      this.decoding.length + this.joining.length + this.waiting.length + this.prefilling.length > 0 ||
      this.memory.hasRetains
    )
  }

  /** Fills `plan`, which is cleared first, and returns whether it holds anything to do. */
  plan(plan: StepPlan, stepId: number, nowMicros: number, sink: PlanSink): boolean {
    plan.clear(stepId)
    for (const request of this.expiring) if (this.leaveDecode(request)) this.leaving.push(request)
    this.expiring.length = 0
    this.memory.retain(plan)
    // Whoever must go goes first: from here on nothing in the plan is taken back.
    this.relieveFront(nowMicros, sink)
    this.growDecodes(plan, nowMicros, sink)
    for (const request of this.leaving) {
      plan.leaves.push(request.slot)
      request.lastStep = stepId
    }
    this.leaving.length = 0
    this.memory.begin(plan)
    this.planDecodes(plan, stepId)
    this.load.clearPrefill()
    this.admitting = this.mayAdmit()
    if (this.admitting || this.prefilling.length > 0) this.planPrefill(plan, stepId, nowMicros, sink)
    if (this.decoding.length === 0 && plan.items.length === 0) {
      return (
        plan.leaves.length + plan.trims.length + plan.windowFrees.length + plan.retains.length + plan.drops.length > 0
      )
    }
    this.plannedMicros = this.config.costModel.stepMicros(this.load)
    return true
  }

  /** Applies a step's result. `plan` is the plan it answers; requests that have ended meanwhile are skipped. */
  commit(plan: StepPlan, result: StepResult, sink: CommitSink & PlanSink): void {
    this.committed(plan.stepId)
    this.commitSelections(result, sink)
    this.commitItems(plan)
    const { data, length } = result.tokens
    for (let i = 0; i < length; i += 3) {
      const request = this.bySlot[data[i]!]
      if (request === null || request === undefined) {
        throw new InvariantViolation("a token belongs to an open slot", { slot: data[i], step: plan.stepId })
      }
      if (request.endReason !== null) continue
      request.tenant.served += outputCharge
      sink.token(request, data[i + 1]!, request.outputs++, data[i + 2]!)
    }
    if (this.preempting.length > 0) this.requeuePreempted(sink)
  }

  /** Whether a step in flight, or the retaining of its pages to come, needs the request's slot. */
  isInFlight(request: Request): boolean {
    return request.lastStep > this.committedStep || request.unretained
  }

  /** Says that everything up to `stepId` is over, without a result: the steps in flight are void. */
  committed(stepId: number): void {
    this.committedStep = stepId
    this.memory.pool.committed(stepId)
  }

  /** Takes a request that no step in flight holds out of every list and gives back what it owns. */
  remove(request: Request): void {
    if (request.phase === "waiting") {
      removeFrom(this.waiting, request)
      this.waitingTokens -= request.promptLength
    } else {
      this.retire(request)
      removeFrom(this.leaving, request)
      removeFrom(this.preempting, request)
      this.bySlot[request.slot] = null
      this.memory.release(request)
    }
    this.queueChanges++
    request.phase = "finished"
  }

  /** Takes a request out of the plans to come; steps in flight may still hold work of it. */
  retire(request: Request): void {
    removeFrom(this.prefilling, request)
    removeFrom(this.joining, request)
    if (this.leaveDecode(request)) this.leaving.push(request)
  }

  // ------------------------------------------------------------------------------------------- relief of memory

  /** The front protected request that waits may preempt anyone behind it, so that it finishes. */
  private relieveFront(nowMicros: number, sink: PlanSink): void {
    const front = this.waiting[0]
    if (front === undefined || !this.ranking.isProtected(front, nowMicros)) return
    // Whoever was refused before: this one comes first now.
    this.queueChanges++
    while (!this.memory.canAdmit(front)) {
      const victim = this.ranking.victimFor(front, this.bySlot, nowMicros)
      if (victim === null || victim === front || this.preempting.length > 0) return
      this.preempt(victim, sink)
    }
  }

  /** Finds the pages for the next row of every decoding request, the first in rank first; those without wait or go. */
  private growDecodes(plan: StepPlan, nowMicros: number, sink: PlanSink): void {
    const { needy, memory } = this
    needy.length = 0
    for (const request of this.decoding) if (request.rowsUntilPage === 0) needy.push(request)
    for (const request of this.joining) needy.push(request)
    if (needy.length > 1) needy.sort((a, b) => (this.ranking.isBehind(a, b, nowMicros) ? 1 : -1))
    for (const request of needy) {
      if (request.phase !== "decode" || request.preempting) continue
      const need = memory.decodeNeed(request)
      while (!memory.canGrow(request, need, true) && this.preempting.length === 0) {
        const victim = this.ranking.victimFor(request, this.bySlot, nowMicros) ?? request
        // What has ended gives its slabs back with the step in flight that holds it: sooner than starting over.
        if (victim === request && this.bySlot.some((one) => one !== null && one.endReason !== null)) break
        this.preempt(victim, sink)
        if (victim === request) break
      }
      if (request.phase !== "decode" || request.preempting) continue
      if (memory.canGrow(request, need)) this.growDecode(request, plan)
      else if (this.leaveDecode(request)) {
        // The slabs come free with a step in flight: sit this step out and join again.
        this.leaving.push(request)
        this.joining.push(request)
      }
    }
  }

  private preempt(victim: Request, sink: PlanSink): void {
    this.preemptions++
    victim.preemptions++
    victim.preempting = true
    this.retire(victim)
    this.preempting.push(victim)
    this.requeuePreempted(sink)
  }

  private requeuePreempted(sink: PlanSink): void {
    for (let i = this.preempting.length - 1; i >= 0; i--) {
      const request = this.preempting[i]!
      if (this.isInFlight(request)) continue
      this.preempting.splice(i, 1)
      if (request.endReason !== null) continue
      removeFrom(this.leaving, request)
      sink.closeSlot(request.slot)
      this.bySlot[request.slot] = null
      this.memory.release(request)
      request.restart()
      this.enqueue(request)
    }
  }

  // ---------------------------------------------------------------------------------------------------- decode

  private planDecodes(plan: StepPlan, stepId: number): void {
    const { load, decoding, joining } = this
    if (joining.length > 0) {
      let stalled = 0
      for (const request of joining) {
        if (request.rowsUntilPage === 0) {
          joining[stalled++] = request
          continue
        }
        plan.joins.push2(request.slot, -1)
        request.decodeIndex = decoding.length
        decoding.push(request)
        load.decodeRows++
        for (let s = 0; s < load.decodeKeys.length; s++) {
          load.decodeKeys[s]! += request.prefillRows(s) + request.decodeRows
        }
      }
      joining.length = stalled
    }
    for (let s = 0; s < load.decodeKeys.length; s++) load.decodeKeys[s]! += decoding.length
    for (let i = 0; i < decoding.length; i++) {
      const request = decoding[i]!
      request.rowsUntilPage--
      request.decodeRows++
      request.lastStep = stepId
      if (++request.plannedOutputs === request.maxTokens) this.expiring.push(request)
    }
  }

  /** Grants the pages for the next decode row and counts the rows until the next page. */
  private growDecode(request: Request, plan: StepPlan): void {
    const { layout } = this.config
    let least = Number.MAX_SAFE_INTEGER
    for (let t = 0; t < layout.tables.length; t++) {
      const table = layout.tables[t]!
      if (table.kind === "carry") continue
      const rows = request.prefillRows(table.segment) + request.decodeRows
      if (table.kind === "sliding") this.memory.slideDecode(request, t, rows, plan)
      this.memory.grow(request, t, rows + 1, plan)
      const held = Math.floor(rows / layout.pageSize + 1) * layout.pageSize
      least = Math.min(least, held - rows)
    }
    request.rowsUntilPage = least
  }

  private leaveDecode(request: Request): boolean {
    const { decoding, load } = this
    if (request.decodeIndex < 0) return false
    const last = decoding.pop()!
    if (last !== request) {
      decoding[request.decodeIndex] = last
      last.decodeIndex = request.decodeIndex
    }
    request.decodeIndex = -1
    load.decodeRows--
    for (let s = 0; s < load.decodeKeys.length; s++) load.decodeKeys[s]! -= request.prefillRows(s) + request.decodeRows
    return true
  }

  // --------------------------------------------------------------------------------------------------- prefill

  private planPrefill(plan: StepPlan, stepId: number, nowMicros: number, sink: PlanSink): void {
    const { config, load } = this
    const budget = load.decodeRows > 0 ? this.budget : this.idleBudget
    let rowsLeft = config.maxRowsPerStep - load.decodeRows
    let startSegment = -1
    for (const request of this.queue(nowMicros)) {
      // Nobody who waits starts further on than segment 0, and a long queue is not read for nothing.
      if (startSegment > 0 && request.phase === "waiting" && config.policy.order === undefined) break
      if (request.awaitsStep > 0 || (startSegment >= 0 && request.segment !== startSegment)) continue
      if (request.phase === "waiting" && !this.admit(request, plan, nowMicros, sink)) continue
      this.memory.slideWindows(request, plan)
      let chunk = largestChunk(request, config.layout, load, this.measure, budget, rowsLeft, this.memory)
      if (chunk === null && startSegment < 0) {
        const starved = nowMicros - request.lastServedMicros > config.maxPrefillWaitMicros
        if (load.decodeRows > 0 && !starved) break
        chunk = smallestChunk(request, config.layout, load, rowsLeft)
        if (load.decodeRows > 0) this.overBudgetChunks++
      }
      if (chunk === null) break
      if (this.memory.prefillNeed(request, chunk.rows, chunk.lastSegment) > this.memory.available) {
        // What is reserved still drains with a step in flight.
        takeBack(request, config.layout, load, chunk)
        break
      }
      startSegment = request.segment
      rowsLeft -= chunk.rows
      this.addItem(request, chunk, plan, stepId, nowMicros)
    }
  }

  /** Whether a waiting request could be admitted now: not while nothing has changed since one was refused. */
  private mayAdmit(): boolean {
    const { memory, refused } = this
    if (this.waiting.length === 0 || this.config.slots - memory.slotsFree >= this.maxRunning) return false
    return (
      refused.queueChanges !== this.queueChanges ||
      memory.unreserved > refused.unreserved ||
      memory.cache.slabs !== refused.cachedSlabs
    )
  }

  /**
   * Prompts in the order in which they are served; those that wait only while they may be admitted. In order of arrival
   * it is read as it goes, so a long queue is free.
   */
  private *queue(nowMicros: number): Generator<Request> {
    if (this.config.policy.order !== undefined) {
      if (!this.admitting && this.prefilling.every((request) => request.awaitsStep > 0)) return
      yield* this.ranking.ordered(this.admitting ? [...this.prefilling, ...this.waiting] : this.prefilling, nowMicros)
      return
    }
    yield* this.prefilling.slice()
    for (let i = 0; i < this.waiting.length && this.admitting;) {
      const request = this.waiting[i]!
      yield request
      // Admission takes it out of the list, and the next one moves up.
      if (this.waiting[i] === request) i++
    }
  }

  /** Admits a waiting request, or lets no other in before it. */
  private admit(request: Request, plan: StepPlan, nowMicros: number, sink: PlanSink): boolean {
    if (!this.admitting) return false
    const { memory, refused } = this
    if (this.config.slots - memory.slotsFree >= this.maxRunning || !memory.admit(request)) {
      this.admitting = false
      refused.queueChanges = this.queueChanges
      refused.unreserved = memory.unreserved
      refused.cachedSlabs = memory.cache.slabs
      return false
    }
    if (request.firstScheduledMicros < 0) request.tenant.served += request.promptLength - request.cachedTokens
    this.queueChanges++
    for (const other of this.waiting) {
      if (other.id >= request.id) break
      other.bypasses++
    }
    removeFrom(this.waiting, request)
    this.waitingTokens -= request.promptLength
    this.prefilling.push(request)
    this.bySlot[request.slot] = request
    request.phase = "prefill"
    if (request.firstScheduledMicros < 0) request.firstScheduledMicros = nowMicros
    sink.openSlot(request)
    this.memory.mapHits(request, plan)
    this.memory.openState(request, plan)
    return true
  }

  private addItem(request: Request, chunk: PrefillChunk, plan: StepPlan, stepId: number, nowMicros: number): void {
    const { layout } = this.config
    const { segment, computedRows } = request
    const end = computedRows + chunk.rows
    const completes = completesSegment(request, chunk.rows)
    const item = plan.itemCount
    plan.items.push(request.slot)
    plan.items.push2(computedRows, chunk.rows)
    plan.items.push2(segment, chunk.lastSegment)
    for (let s = segment; s <= chunk.lastSegment; s++) {
      this.memory.growSegment(request, s, s === segment || !request.drops ? end : request.prefillRows(s), plan)
    }
    request.computedRows = end
    request.lastStep = stepId
    request.lastServedMicros = nowMicros
    if (!completes) return
    const last = layout.segments.length - 1
    const samples = chunk.lastSegment === last
    if (samples) {
      plan.samples.push2(item, request.slot)
      request.plannedOutputs++
    }
    if (request.drops && segment < last) request.awaitsStep = stepId
    else if (samples) this.startDecoding(request)
  }

  /** The prompt is done: all carries are given back and the request decodes from the next plan on. */
  private startDecoding(request: Request): void {
    const { layout } = this.config
    request.phase = "decode"
    request.segment = layout.segments.length - 1
    request.rowsUntilPage = 0
    removeFrom(this.prefilling, request)
    this.memory.finishSegments(request, layout.segments.length)
    if (request.plannedOutputs < request.maxTokens) this.joining.push(request)
  }

  // ---------------------------------------------------------------------------------------------------- commit

  private commitSelections(result: StepResult, sink: CommitSink): void {
    const { schedule } = this.config
    const { data, length } = result.selections
    for (let i = 0; i < length;) {
      const slot = data[i]!
      const segment = data[i + 1]!
      const flags = data[i + 2]!
      const words = data[i + 3]!
      const bitmap = new Uint32Array(words)
      for (let w = 0; w < words; w++) bitmap[w] = data[i + 4 + w]!
      i += 4 + words
      const request = this.bySlot[slot]
      if (request === null || request === undefined || request.endReason !== null) continue
      if (segment + 1 < request.keptRows.length) {
        if ((flags & SelectionFlag.replayed) === 0) {
          throw new InvariantViolation("a decided selection is replayed, not scored again", { id: request.id, segment })
        }
        continue
      }
      if (segment + 1 !== request.keptRows.length) {
        throw new InvariantViolation("selections come in the order of segments", { id: request.id, segment })
      }
      const kept = keptRows(bitmap, { rows: request.rowsOf(segment), ...schedule })
      request.bitmaps.push(bitmap)
      request.keptRows.push(kept)
      sink.selected(request, segment, bitmap, kept, flags)
    }
  }

  private commitItems(plan: StepPlan): void {
    const { data, length } = plan.items
    const last = this.config.layout.segments.length - 1
    for (let i = 0; i < length; i += sectionWidths.items) {
      const request = this.bySlot[data[i + ItemField.slot]!]
      if (request === null || request === undefined) continue
      if (data[i + ItemField.firstSegment] === 0 && request.pageKeys.length > request.cached.length) {
        this.memory.publish(request, data[i + ItemField.firstRow]! + data[i + ItemField.rows]!)
      }
      if (request.endReason !== null || request.preempting) continue
      if (request.awaitsStep !== plan.stepId) continue
      const lastSegment = data[i + ItemField.lastSegment]!
      if (request.keptRows.length < Math.min(lastSegment, last - 1) + 2) {
        throw new InvariantViolation("an item that completes a segment returns its selection", {
          id: request.id,
          lastSegment,
          selections: request.keptRows.length - 1,
        })
      }
      request.awaitsStep = 0
      if (lastSegment === last) this.startDecoding(request)
      else {
        request.segment = lastSegment + 1
        request.computedRows = 0
        this.memory.finishSegments(request, request.segment)
      }
    }
  }
}
