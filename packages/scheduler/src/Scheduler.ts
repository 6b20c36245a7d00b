import { keptRows } from "@uniprefill/model/Selection"
import type { ActionList } from "./Actions.ts"
import { type CostModel, tokenCount } from "./CostModel.ts"
import { DecodeSet } from "./DecodeSet.ts"
import { Forks } from "./Forks.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
import { Memory } from "./Memory.ts"
import { completesSegment, largestChunk, smallestChunk, takeBack, type PrefillChunk } from "./Prefill.ts"
import { Ranking } from "./Ranking.ts"
import { removeFrom, type Request } from "./Request.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { Slots } from "./Slots.ts"
import { StepLoad, windowsOf } from "./StepLoad.ts"
import { ItemField, sectionWidths, type StepPlan } from "./StepPlan.ts"
import { SelectionFlag, type StepResult } from "./StepResult.ts"
import { outputCharge, Tenants } from "./Tenants.ts"
import { WaitingQueue } from "./WaitingQueue.ts"

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
  readonly waiting = new WaitingQueue()
  /** Admitted, prompt not done; in order of admission. */
  readonly prefilling: Array<Request> = []
  /** Times that a starved prompt was given a chunk beyond the budget. */
  overBudgetChunks = 0
  preemptions = 0
  /** The last step whose result was applied. */
  committedStep = 0
  private readonly config: SchedulerConfig
  private readonly load: StepLoad
  private readonly decodes: DecodeSet
  private readonly forks: Forks
  private readonly slots: Slots
  /** Preempted, with work in flight. */
  private readonly preempting: Array<Request> = []
  /** Of the plan being made: requests may still be admitted; the segment that its items start at. */
  private admitting = false
  private startSegment = -1
  /** Requests that came, went or gave up a slot; with two numbers of memory: whether asking again could admit anyone. */
  private queueChanges = 0
  private readonly refused = { queueChanges: -1, unreserved: 0, cache: 0 }
  /** What a step is measured by while prefill is added to it, and how much of that it may take; idle: without decodes. */
  private readonly measure: CostModel
  private readonly budget: number
  private readonly idleBudget: number
  private readonly maxRunning: number
  private readonly ranking: Ranking
  private lastContentId = 0

  constructor(config: SchedulerConfig) {
    if (config.maxRowsPerStep < config.slots + 64) {
      throw new RangeError(
        `maxRowsPerStep must be at least slots + 64 = ${config.slots + 64}, got ${config.maxRowsPerStep}`,
      )
    }
    this.config = config
    this.memory = new Memory(config)
    this.load = new StepLoad(config.layout.segments.length, windowsOf(config.layout))
    this.forks = new Forks(this.memory)
    this.decodes = new DecodeSet(config.layout, this.memory, this.load)
    this.ranking = new Ranking(config, this.memory)
    const tokens = config.policy.tokenBudget
    this.measure = tokens === undefined ? config.costModel : tokenCount
    this.budget = tokens?.maxNumBatchedTokens ?? config.stepBudgetMicros
    this.idleBudget = tokens?.maxNumBatchedTokens ?? config.idleStepBudgetMicros
    this.maxRunning = Math.min(config.slots, tokens?.maxNumSeqs ?? config.slots)
    this.slots = new Slots(config.slots, this.memory)
  }

  /** Names the content of a request that waits to be opened: positive and below 2³¹. */
  nextContentId(): number {
    this.lastContentId = this.lastContentId === 0x7fff_ffff ? 1 : this.lastContentId + 1
    return this.lastContentId
  }

  /** Puts a request into the queue at its place in order of arrival. */
  enqueue(request: Request): void {
    this.waiting.insert(request)
    this.queueChanges++
  }

  /** The requests that decode. */
  get decoding(): ReadonlyArray<Request> {
    return this.decodes.members
  }

  /** Prompt tokens of all that wait. */
  get waitingTokens(): number {
    return this.waiting.tokens
  }

  /** Whether a plan made now would hold any work. */
  get hasWork(): boolean {
    return (
      this.forks.waiting ||
      this.decodes.members.length + this.decodes.joining.length > 0 ||
      this.waiting.length + this.prefilling.length > 0 ||
      this.memory.prefixes.hasNews ||
      this.slots.hasNews
    )
  }

  /** Fills `plan`, which is cleared first, and returns whether it holds anything to do. Adds contents to be put to `actions`. */
  plan(plan: StepPlan, stepId: number, nowMicros: number, actions: ActionList): boolean {
    plan.clear(stepId)
    this.decodes.expire()
    this.memory.prefixes.retain(plan)
    this.memory.saveStates(plan)
    this.forks.plan(plan, this.decodes.joining)
    // Whoever must go goes first: from here on nothing in the plan is taken back.
    this.relieveFront(nowMicros, actions)
    this.growDecodes(plan, nowMicros, actions)
    this.decodes.planLeaves(plan)
    this.slots.planCloses(plan)
    this.memory.begin(plan)
    this.decodes.planRows(plan)
    this.load.clearPrefill()
    this.admitting = this.mayAdmit()
    if (this.admitting || this.prefilling.length > 0) this.planPrefill(plan, nowMicros)
    if (this.load.decodeRows === 0 && plan.items.length === 0) {
      return plan.lists.some((list) => list.length > 0)
    }
    plan.predictedMicros = this.config.costModel.stepMicros(this.load)
    return true
  }

  /**
   * Applies a step's result: `actions` gets its selections and tokens. `plan` is the plan it answers; requests that have ended
   * meanwhile are skipped. The caller ends who is to end, and then calls {@link afterCommit}.
   */
  commit(plan: StepPlan, result: StepResult, actions: ActionList): void {
    this.committed(plan.stepId)
    this.commitSelections(result, actions)
    this.commitItems(plan)
    const { data, length } = result.tokens
    for (let i = 0; i < length; i += 3) {
      const request = this.slots.at(data[i]!)
      if (request === null) {
        throw new InvariantViolation("a token belongs to an open slot", { slot: data[i], step: plan.stepId })
      }
      if (request.endReason !== null) continue
      request.tenant.served += outputCharge
      request.outputs++
      actions.tokens.push(request, data[i + 1]!, data[i + 2]!)
    }
  }

  /** Who was preempted and has nothing in flight any more waits again. */
  afterCommit(actions: ActionList): void {
    if (this.preempting.length > 0) this.requeuePreempted(actions)
  }

  /** The request that has a slot; null for a slot that nobody has. */
  requestAt(slot: number): Request | null {
    return this.slots.at(slot)
  }

  /** Whether a step in flight, or forks that have no pages yet, need the request's slot. */
  isInFlight(request: Request): boolean {
    return (
      request.lastStep > this.committedStep ||
      (request.forking && request.forks.some((fork) => fork.endReason === null))
    )
  }

  /** Says that everything up to `stepId` is over, without a result: the steps in flight are void. */
  committed(stepId: number): void {
    this.committedStep = stepId
    this.memory.committed(stepId)
  }

  /** Takes a request that no step in flight holds out of every list and gives back what it owns. */
  remove(request: Request): void {
    if (request.phase === "waiting") {
      this.waiting.remove(request)
    } else {
      this.retire(request)
      removeFrom(this.preempting, request)
      this.forks.leave(request)
      this.slots.giveUp(request)
    }
    this.queueChanges++
    request.phase = "finished"
  }

  /**
   * Takes a request out of the plans to come, but for the closing of its slot; steps in flight may still hold work of it.
   * Its slot and slabs are its own until those have committed.
   */
  retire(request: Request): void {
    removeFrom(this.prefilling, request)
    this.decodes.retire(request)
    this.slots.leave(request)
  }

  /** After a step failed and every request with a slot has been removed: the executor has forgotten everything. */
  reset(): void {
    this.slots.reset()
    this.decodes.reset()
    this.memory.reset()
  }

  // ------------------------------------------------------------------------------------------- relief of memory

  /** The front protected request that waits may preempt anyone behind it, so that it finishes. */
  private relieveFront(nowMicros: number, actions: ActionList): void {
    const front = this.waiting.at(0)
    if (front === undefined || !this.ranking.isProtected(front, nowMicros)) return
    // Whoever was refused before: this one comes first now.
    this.queueChanges++
    while (!this.memory.canAdmit(front)) {
      const victim = this.ranking.victimFor(front, this.slots.requests, nowMicros)
      if (victim === null || victim === front || this.preempting.length > 0) return
      this.preempt(victim, actions)
    }
  }

  /** Finds the pages for the next row of every decoding request, the first in rank first; those without wait or go. */
  private growDecodes(plan: StepPlan, nowMicros: number, actions: ActionList): void {
    const { memory, decodes } = this
    const needy = decodes.lackingPages()
    if (needy.length === 0) return
    if (needy.length > 1) needy.sort((a, b) => (this.ranking.isBehind(a, b, nowMicros) ? 1 : -1))
    for (const request of needy) {
      if (request.phase !== "decode" || request.preempting) continue
      const need = memory.decodeNeed(request)
      while (!memory.canGrow(request, need, true) && this.preempting.length === 0) {
        const victim = this.ranking.victimFor(request, this.slots.requests, nowMicros) ?? request
        // What has ended gives its slabs back with the step in flight that holds it: sooner than starting over.
        if (victim === request && this.slots.requests.some((one) => one !== null && one.endReason !== null)) break
        this.preempt(victim, actions)
        if (victim === request) break
      }
      if (request.phase !== "decode" || request.preempting) continue
      if (memory.canGrow(request, need)) decodes.grow(request, plan)
      // The slabs come free with a step in flight.
      else decodes.stall(request)
    }
  }

  private preempt(victim: Request, actions: ActionList): void {
    this.preemptions++
    victim.preemptions++
    victim.preempting = true
    this.retire(victim)
    if (victim.forking) this.forks.preempt(victim, this.preempting)
    else this.forks.leave(victim)
    this.preempting.push(victim)
    this.requeuePreempted(actions)
  }

  private requeuePreempted(actions: ActionList): void {
    for (let i = this.preempting.length - 1; i >= 0; i--) {
      const request = this.preempting[i]!
      if (this.isInFlight(request)) continue
      this.preempting.splice(i, 1)
      if (request.endReason !== null) continue
      this.startOver(request, actions)
    }
  }

  /** A preempted request waits again, and with it the answers that would have gone on from its prefill. */
  private startOver(request: Request, actions: ActionList): void {
    for (const one of [request, ...request.forks]) {
      this.slots.giveUp(one)
      if (one.endReason !== null) continue
      one.contentId = this.nextContentId()
      actions.puts.push(one)
    }
    request.restart()
    this.enqueue(request)
  }

  // --------------------------------------------------------------------------------------------------- prefill

  /**
   * Adds prefill in the order in which prompts are served; those that wait only while they may be admitted. In order of
   * arrival the queue is read as it goes, so a long one is free.
   */
  private planPrefill(plan: StepPlan, nowMicros: number): void {
    const { config, prefilling, waiting } = this
    this.startSegment = -1
    if (config.policy.order !== undefined) {
      if (!this.admitting && prefilling.every((request) => request.awaitsStep > 0)) return
      const prompts = this.admitting ? [...prefilling, ...waiting] : prefilling
      for (const request of this.ranking.ordered(prompts, nowMicros)) {
        if (!this.serve(request, plan, nowMicros)) return
      }
      return
    }
    // Whoever is served may leave the list it is in, and the next one moves up.
    for (let i = 0; i < prefilling.length;) {
      const request = prefilling[i]!
      if (!this.serve(request, plan, nowMicros)) return
      if (prefilling[i] === request) i++
    }
    // Nobody who waits starts further on than segment 0.
    for (let i = 0; i < waiting.length && this.admitting && this.startSegment <= 0;) {
      const request = waiting.at(i)!
      if (!this.serve(request, plan, nowMicros)) return
      if (waiting.at(i) === request) i++
    }
  }

  /** Adds what fits of a prompt to the step; false when nothing more is to be added after it. */
  private serve(request: Request, plan: StepPlan, nowMicros: number): boolean {
    const { config, load, memory } = this
    if (request.awaitsStep > 0 || (this.startSegment >= 0 && request.segment !== this.startSegment)) return true
    if (request.phase === "waiting" && !this.admit(request, plan, nowMicros)) return true
    memory.slideWindows(request, plan)
    const budget = load.decodeRows > 0 ? this.budget : this.idleBudget
    const segmentRows = config.maxRowsPerStep - load.decodeRows
    let chunk = largestChunk(request, config.layout, load, this.measure, budget, segmentRows, memory)
    if (chunk === null && this.startSegment < 0) {
      const starved = nowMicros - request.lastServedMicros > config.maxPrefillWaitMicros
      if (load.decodeRows > 0 && !starved) return false
      chunk = smallestChunk(request, config.layout, load, segmentRows)
      if (load.decodeRows > 0) this.overBudgetChunks++
    }
    if (chunk === null) return false
    if (memory.prefillNeed(request, chunk.rows, chunk.lastSegment) > memory.available) {
      // What is reserved still drains with a step in flight.
      takeBack(request, config.layout, load, chunk)
      return false
    }
    this.startSegment = request.segment
    this.addItem(request, chunk, plan, nowMicros)
    return true
  }

  /** Whether a waiting request could be admitted now: not while nothing has changed since one was refused. */
  private mayAdmit(): boolean {
    const { memory, refused } = this
    if (this.waiting.length === 0 || this.config.slots - memory.slotsFree >= this.maxRunning) return false
    return (
      refused.queueChanges !== this.queueChanges ||
      memory.unreserved > refused.unreserved ||
      memory.cache.version !== refused.cache
    )
  }

  /** Admits a waiting request, or lets no other in before it. */
  private admit(request: Request, plan: StepPlan, nowMicros: number): boolean {
    if (!this.admitting) return false
    const { memory, refused } = this
    const running = this.config.slots - memory.slotsFree
    if (running + 1 + request.forks.length > this.maxRunning || !memory.admit(request)) {
      this.admitting = false
      refused.queueChanges = this.queueChanges
      refused.unreserved = memory.unreserved
      refused.cache = memory.cache.version
      return false
    }
    if (request.firstScheduledMicros < 0) request.tenant.served += request.promptLength - request.cachedTokens
    this.queueChanges++
    for (let i = 0; this.waiting.at(i) !== request; i++) this.waiting.at(i)!.bypasses++
    this.waiting.remove(request)
    this.prefilling.push(request)
    this.slots.take(request)
    request.phase = "prefill"
    if (request.firstScheduledMicros < 0) request.firstScheduledMicros = nowMicros
    plan.opens.push2(request.slot, request.contentId)
    for (const fork of request.forks) plan.opens.push2(fork.slot, fork.contentId)
    memory.open(request, plan)
    return true
  }

  private addItem(request: Request, chunk: PrefillChunk, plan: StepPlan, nowMicros: number): void {
    const { stepId } = plan
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
    const last = layout.segments.length - 1
    if (segment === 0 && (chunk.lastSegment === 0 || !request.drops)) this.memory.prefixes.computed(request, end)
    if (!completes) return
    const samples = chunk.lastSegment === last
    if (samples) this.sampleFirst(request, item, plan, stepId)
    if ((request.drops && segment < last) || request.forks.length > 0) request.awaitsStep = stepId
    else if (samples) this.startDecoding(request)
  }

  /** The item's last row gives the request its first token, and each of its forks one of its own. */
  private sampleFirst(request: Request, item: number, plan: StepPlan, stepId: number): void {
    plan.samples.push2(item, request.slot)
    request.plannedOutputs++
    for (const fork of request.forks) {
      if (fork.endReason !== null) continue
      plan.samples.push2(item, fork.slot)
      fork.plannedOutputs++
      fork.lastStep = stepId
      this.slots.take(fork)
    }
  }

  /** The prompt is done: all carries are given back and the request decodes from the next plan on. */
  private startDecoding(request: Request): void {
    const { layout } = this.config
    request.phase = "decode"
    request.segment = layout.segments.length - 1
    request.rowsUntilPage = 0
    removeFrom(this.prefilling, request)
    this.memory.finishSegments(request, layout.segments.length)
    if (request.forks.length > 0) {
      this.forks.begin(request)
    } else if (request.plannedOutputs < request.maxTokens) this.decodes.joining.push(request)
  }

  // ---------------------------------------------------------------------------------------------------- commit

  private commitSelections(result: StepResult, actions: ActionList): void {
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
      const request = this.slots.at(slot)
      if (request === null || request.endReason !== null) continue
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
      actions.selections.push({ request, segment, bitmap, kept, flags })
    }
  }

  private commitItems(plan: StepPlan): void {
    const { data, length } = plan.items
    const last = this.config.layout.segments.length - 1
    for (let i = 0; i < length; i += sectionWidths.items) {
      const request = this.slots.at(data[i + ItemField.slot]!)
      if (request === null) continue
      // A plan that closes the slot has given its slabs up: what nobody holds any more cannot be retained.
      const mayPublish = !request.closed && request.pageKeys.length > request.cached.length
      if (mayPublish && data[i + ItemField.firstSegment] === 0) {
        this.memory.publish(request, data[i + ItemField.firstRow]! + data[i + ItemField.rows]!)
      }
      if (request.endReason !== null || request.awaitsStep !== plan.stepId) continue
      const lastSegment = data[i + ItemField.lastSegment]!
      if (request.preempting) {
        if (lastSegment === last && request.forks.length > 0) {
          this.forks.preempt(request, this.preempting)
        }
        continue
      }
      if (request.drops && request.keptRows.length < Math.min(lastSegment, last - 1) + 2) {
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
