import type { ActionList } from "./Actions.ts"
import {
  addChunk,
  type ChunkLimits,
  defaultChunkRows,
  largestChunk,
  type PrefillChunk,
  smallestChunk,
} from "./Prefill.ts"
import { removeFrom, type Request } from "./Request.ts"
import type { ServingState } from "./ServingState.ts"
import { completesSegment, passesTogether } from "./Span.ts"
import type { StepPlan } from "./StepPlan.ts"

/** Prompts that one plan may find no memory for, before the others are left to the next one. */
const mostRefusals = 16

/** Adds prompts' chunks to a plan that holds its decodes already. */
export class PrefillStage {
  /** Times that a prompt was given a chunk beyond the budget: one that waited too long, or what it was owed. */
  overBudgetChunks = 0
  private readonly state: ServingState
  /** Of the plan being made: prefill rows that a segment may have; the segment that its items start at; what it may be measured to take. */
  private rowsPerSegment = 0
  private startSegment = -1
  private most = 0
  /** Used again for every chunk. */
  private readonly limits: { -readonly [K in keyof ChunkLimits]: ChunkLimits[K] }
  private actions: ActionList | null = null
  /** Prompts that wait may be admitted, and so many more may be refused. */
  private admitting = false
  private refusalsLeft = 0
  /** The oldest prompt that is not computed, and whether the plan has work of it. */
  private front: Request | null = null
  private frontIsServed = false
  /** Later prompts that the plan begins. */
  private begunAfterFront = 0
  /** Who goes before the policy's order, where somebody does: whose turn it is, and then the front. */
  private turn: Request | null = null
  private first: Request | null = null
  /** Prompts that found no memory since there was last more of it: asking again would find none. */
  private readonly refused = new Set<Request>()
  private refusedAt = { room: 0, cache: 0 }

  constructor(state: ServingState) {
    this.state = state
    this.limits = {
      measure: state.budget.measure,
      most: 0,
      rowsPerSegment: 0,
      chunkRows: state.config.chunkRows ?? defaultChunkRows,
      cut: 0,
      hasMemory: (request, rows, lastSegment) => state.memory.canRun(request, rows, lastSegment),
    }
  }

  /** A request has left the queue. */
  forget(request: Request): void {
    if (this.refused.size > 0) this.refused.delete(request)
  }

  /**
   * Serves who goes before the policy's order, then the others as the policy orders them; those that wait only while they may
   * be admitted. In order of arrival the queue is read as it goes, so a long one is free. Contents of those whose p is lowered
   * are added to `actions`.
   */
  plan(plan: StepPlan, nowMicros: number, actions: ActionList): void {
    const { state } = this
    const { load, prefilling, config, ranking } = state
    this.turn = state.turns.next
    this.first = ranking.protectedFront(state, nowMicros)
    this.admitting = this.mayAdmit()
    state.isCrowded = state.waiting.length > 0 && (!this.admitting || this.refused.size > 0)
    if (!this.admitting && prefilling.length === 0) return
    this.rowsPerSegment = config.maxRowsPerStep - load.decodeRows
    this.startSegment = -1
    this.refusalsLeft = mostRefusals
    this.most = state.budget.open(load, this.someoneWaits)
    this.front = ranking.front(state, nowMicros)
    this.frontIsServed = false
    this.begunAfterFront = 0
    this.actions = actions
    this.fill(plan, nowMicros)
    this.countBypasses()
  }

  /** Serves prompts in their order until the step, or its limits, are full. */
  private fill(plan: StepPlan, nowMicros: number): void {
    const { prefilling, waiting, config, ranking } = this.state
    const { turn, first } = this
    if (turn !== null && !this.serveFirst(turn, plan, nowMicros)) return
    if (first !== null && first !== turn && !this.serveFirst(first, plan, nowMicros)) return
    if (config.policy.order !== undefined) {
      if (!this.admitting && prefilling.every((request) => request.flight.awaitsStep > 0)) return
      const prompts = this.admitting ? [...prefilling, ...this.untried()] : prefilling
      for (const request of ranking.ordered(prompts, nowMicros)) {
        if (request !== first && request !== turn && !this.serve(request, plan, nowMicros)) return
      }
      return
    }
    // Whoever is served may leave the list it is in, and the next one moves up.
    for (let i = 0; i < prefilling.length;) {
      const request = prefilling[i]!
      if (request !== first && request !== turn && !this.serve(request, plan, nowMicros)) return
      if (prefilling[i] === request) i++
    }
    // Nobody who waits starts further on than segment 0.
    for (let i = 0; i < waiting.length && this.admitting && this.startSegment <= 0;) {
      const request = waiting.at(i)!
      if (!this.refused.has(request) && !this.serve(request, plan, nowMicros)) return
      if (waiting.at(i) === request) i++
    }
  }

  /** The same as {@link serve} for one that goes before the others: room is kept for it. */
  private serveFirst(request: Request, plan: StepPlan, nowMicros: number): boolean {
    if (!this.serve(request, plan, nowMicros)) return false
    if (request.phase === "waiting") this.admitting = false
    return true
  }

  /** Adds what fits of a prompt to the step; false when nothing more is to be added after it. */
  private serve(request: Request, plan: StepPlan, nowMicros: number): boolean {
    const { state } = this
    const { config, load, memory, budget } = state
    const { progress, flight } = request
    if (flight.awaitsStep > 0 || (this.startSegment >= 0 && progress.segment !== this.startSegment)) return true
    if (request.phase === "waiting" && !this.admit(request, plan, nowMicros)) return true
    memory.slideWindows(request, plan)
    let chunk = largestChunk(request, config.layout, load, this.limitsFor(request))
    if (chunk === null && this.startSegment < 0) chunk = this.forced(request, nowMicros)
    if (chunk === null) return false
    // What is reserved still drains with a step in flight.
    if (memory.prefillNeed(request, chunk.rows, chunk.lastSegment) > memory.available) return false
    addChunk(request, config.layout, load, chunk)
    if (request.drops && chunk.lastSegment > progress.segment) {
      memory.reserveRun(request, chunk.rows, chunk.lastSegment)
    }
    if (load.decodeRows > 0) budget.settle()
    this.startSegment = progress.segment
    if (request === this.front) this.frontIsServed = true
    this.addItem(request, chunk, plan, nowMicros)
    return true
  }

  /** Valid until the next call. */
  private limitsFor(request: Request): ChunkLimits {
    const { limits } = this
    const { memory, budget } = this.state
    const { segment, computedRows } = request.progress
    limits.measure = budget.measure
    limits.most = this.most
    limits.rowsPerSegment = this.rowsPerSegment
    limits.cut = segment === 0 ? memory.prefixes.rowsToCut(request, computedRows) : Number.POSITIVE_INFINITY
    return limits
  }

  /**
   * The smallest chunk, where not even that fits: for a step that has nothing else to do, for a prompt that has waited too
   * long, and where what prompts were owed pays for it.
   */
  private forced(request: Request, nowMicros: number): PrefillChunk | null {
    const { config, load, budget } = this.state
    const chunk = smallestChunk(request, config.layout, load, this.limitsFor(request))
    if (chunk === null || load.decodeRows === 0) return chunk
    addChunk(request, config.layout, load, chunk)
    const pays = budget.pays(load)
    addChunk(request, config.layout, load, chunk, -1)
    if (!pays && nowMicros - request.account.lastServedMicros <= config.maxPrefillWaitMicros) return null
    this.overBudgetChunks++
    return chunk
  }

  /** Whether somebody waits for this step to end: decodes, or first tokens that a step in flight computes. */
  private get someoneWaits(): boolean {
    const { load, decodes, prefilling } = this.state
    if (load.decodeRows > 0 || decodes.joining.length > 0) return true
    for (let i = 0; i < prefilling.length; i++) if (prefilling[i]!.flight.samples) return true
    return false
  }

  // ------------------------------------------------------------------------------------------------- admission

  /**
   * Whether some waiting request could be admitted now: not while there is no more room than when all were refused. But who goes first
   * leaves no room for the others' growth, and may fit although it was refused before.
   */
  private mayAdmit(): boolean {
    const { memory, waiting, running, maxRunning } = this.state
    if (waiting.length === 0 || running >= maxRunning) return false
    const { refused, refusedAt } = this
    if (refused.size > 0 && (this.room > refusedAt.room || memory.tree.version !== refusedAt.cache)) refused.clear()
    if (refused.size < waiting.length) return true
    const first = this.turn ?? this.first
    return first !== null && first.phase === "waiting" && memory.canAdmit(first)
  }

  /** Slabs that are set aside for nobody, and that those who run will not take soon. */
  private get room(): number {
    const { running, memory, growthAhead } = this.state
    return running === 0 ? Number.POSITIVE_INFINITY : memory.unreserved - growthAhead
  }

  private untried(): ReadonlyArray<Request> {
    const { waiting } = this.state
    return this.refused.size === 0 ? [...waiting] : [...waiting].filter((request) => !this.refused.has(request))
  }

  /**
   * Admits a waiting request. One that finds no memory holds nobody back, unless it is the front and protected; one that finds
   * no slot does, for slots are all alike.
   */
  private admit(request: Request, plan: StepPlan, nowMicros: number): boolean {
    if (!this.admitting) return false
    const { state } = this
    const { memory } = state
    if (state.running + 1 + request.forks.length > state.maxRunning) {
      state.isCrowded = true
      this.admitting = false
      return false
    }
    if (!memory.admit(request, this.headroomFor(request))) {
      // Room is kept for one that has begun to answer: later ones would only be preempted for it.
      if (request.account.preemptions > 0) this.admitting = false
      this.refuse(request)
      return false
    }
    const { account, flight } = request
    // Whose turn it is was here before: the front is passed over by new ones.
    if (this.front !== null && this.front.id < request.id && request !== this.turn) this.begunAfterFront++
    if (account.firstScheduledMicros < 0) {
      state.tenants.begin(account.tenant, request.promptLength - account.cachedTokens)
      account.firstScheduledMicros = nowMicros
    }
    state.dequeue(request)
    this.forget(request)
    state.prefilling.push(request)
    state.slots.take(request)
    request.phase = "prefill"
    flight.usedBy(plan.stepId)
    if (state.sloP.lowers(request, state, nowMicros)) this.lowerP(request)
    plan.opens.push2(request.slot, request.contentId)
    for (const fork of request.forks) {
      state.slots.take(fork)
      plan.opens.push2(fork.slot, fork.contentId)
    }
    memory.open(request, plan)
    if (request.outputs > 0) state.turns.resume(state.prefillMicros(request))
    if (request === this.turn) state.turns.take(request)
    return true
  }

  /** The content that the plan opens is another one than was put at first: p is part of it. */
  private lowerP(request: Request): void {
    request.account.isLowered = true
    const { forgets, puts } = this.actions!
    for (const one of [request, ...request.forks]) {
      // One that starts over in this very plan is not put yet.
      if (puts.includes(one)) continue
      forgets.push(one.contentId)
      one.contentId = this.state.nextContentId()
      puts.push(one)
    }
  }

  /**
   * Slabs that decodes, this one included, may come to need soon: were they given to a new prompt, somebody would be preempted
   * for them and computed again. None for who goes first, nor where nobody runs.
   */
  private headroomFor(request: Request): number {
    const { state } = this
    if (state.running === 0 || request === this.first || request === this.turn) return 0
    return state.growthAhead + state.growthOf(request)
  }

  private refuse(request: Request): void {
    const { refused, refusedAt, room } = this
    this.state.isCrowded = true
    if (refused.size === 0 || room < refusedAt.room) refusedAt.room = room
    refusedAt.cache = this.state.memory.tree.version
    refused.add(request)
    if (--this.refusalsLeft === 0) this.admitting = false
  }

  /** Later prompts were begun in a plan without the front, which could have been served. */
  private countBypasses(): void {
    const { front, begunAfterFront } = this
    if (front !== null && !this.frontIsServed && front.flight.awaitsStep === 0)
      front.account.bypasses += begunAfterFront
  }

  // ----------------------------------------------------------------------------------------------------- items

  private addItem(request: Request, chunk: PrefillChunk, plan: StepPlan, nowMicros: number): void {
    const { stepId } = plan
    const { memory, config } = this.state
    const { progress, flight } = request
    const { segment, computedRows } = progress
    const last = config.layout.segments.length - 1
    const end = computedRows + chunk.rows
    const completes = completesSegment(request, chunk.rows)
    const item = plan.itemCount
    plan.items.push(request.slot)
    plan.items.push2(computedRows, chunk.rows)
    plan.items.push2(segment, chunk.lastSegment)
    for (let s = segment; s <= chunk.lastSegment; s++) {
      memory.growSegment(request, s, passesTogether(request, segment, s) ? end : progress.prefillRows(s), plan)
    }
    progress.computedRows = end
    flight.usedBy(stepId)
    request.account.lastServedMicros = nowMicros
    if (segment === 0 && (chunk.lastSegment === 0 || !request.drops)) memory.prefixes.computed(request, end)
    if (!completes) return
    const samples = chunk.lastSegment === last
    if (samples) this.sampleFirst(request, item, plan)
    if ((request.drops && segment < last) || request.forks.length > 0) {
      flight.awaitsStep = stepId
      flight.samples = samples
    } else if (samples) this.startDecoding(request)
  }

  /** The item's last row gives the request its first token, and each of its forks one of its own. */
  private sampleFirst(request: Request, item: number, plan: StepPlan): void {
    const { turns } = this.state
    plan.samples.push2(item, request.slot)
    request.progress.planFirst()
    turns.runs(request)
    for (const fork of request.forks) {
      if (fork.endReason !== null) continue
      plan.samples.push2(item, fork.slot)
      fork.progress.planFirst()
      turns.runs(fork)
      fork.flight.usedBy(plan.stepId)
    }
  }

  /** The prompt is done: all carries are given back, and the request decodes from the next plan on, if it does not already. */
  startDecoding(request: Request): void {
    const { config, prefilling, memory, forks, decodes } = this.state
    const { progress, flight } = request
    request.phase = "decode"
    progress.segment = config.layout.segments.length - 1
    flight.samples = false
    removeFrom(prefilling, request)
    memory.finishSegments(request, config.layout.segments.length)
    if (request.forks.length > 0) forks.begin(request)
    else decodes.add(request)
  }
}
