import type { Driver, DriverConfig } from "@uniprefill/scheduler/Driver"
import type { Request } from "@uniprefill/scheduler/Request"
import { type StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepLoad } from "@uniprefill/scheduler/StepLoad"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { keptRows } from "@uniprefill/model/Selection"
import type { CheckedRunner } from "./CheckedRunner.ts"
import { growthAhead } from "./Headroom.ts"
import { broken, copyOf, firstsOf, type Flying, hasCopies, itemsOf, type OpenSlot, type Seen } from "./LoopBooks.ts"
import { TurnBooks } from "./TurnBooks.ts"

/**
 * Watches a serving loop from outside with books of its own: what it counts is recounted from plans and results, never read from
 * the code under test. Every fault has a name, so that it can be told which property a defect breaks.
 */
export class LoopChecks {
  private readonly driver: Driver
  private readonly runner: CheckedRunner
  private readonly seen = new Map<number, Seen>()
  private readonly byContent = new Map<number, Seen>()
  private readonly slots = new Map<number, OpenSlot>()
  private readonly decoding = new Set<number>()
  private readonly flying: Array<Flying> = []
  private now = 0
  /** The plans that the tick has made. */
  private readonly made: Array<StepPlan> = []
  private readonly turns: TurnBooks
  private readonly loads = new Map<number, StepLoad>()
  /** Who gave way to which plan of the tick. */
  private readonly gaveWay: Array<readonly [stepId: number, Request]> = []
  /** Who was on the way out, and who waited for a selection, when each plan was made: the next one may be of the same tick. */
  private readonly leaving = new Map<number, ReadonlySet<Request>>()
  private readonly awaiting = new Map<number, ReadonlySet<Request>>()
  private served = new Map<string, number>()
  /** What every row is predicted and measured to take, where that is one: budgets hold as they are configured then. */
  private readonly rowMicros: number | null

  constructor(driver: Driver, runner: CheckedRunner, rowMicros: number | null) {
    this.driver = driver
    this.runner = runner
    this.rowMicros = rowMicros
    // The load of each plan as it was when the plan was complete: planning goes on, and may find nothing more to do.
    const { scheduler } = driver
    const plan = scheduler.plan.bind(scheduler)
    scheduler.plan = (of, stepId, now, actions) => {
      this.now = now
      this.made.push(of)
      const before = new Map([...this.seen.values()].map(({ request }) => [request, request.account.preemptions]))
      const all = [...this.seen.values()].filter(({ ended }) => !ended)
      this.alone = all.length === 1 && !hasCopies(all[0]!.request) ? all[0]!.request : null
      const isWork = plan(of, stepId, now, actions)
      for (const [one, count] of before) if (one.account.preemptions > count) this.gaveWay.push([of.stepId, one])
      const { load } = scheduler.state
      if (isWork) {
        this.loads.set(of.stepId, copyOf(load))
        const requests = [...this.seen.values()].map(({ request }) => request)
        this.leaving.set(of.stepId, new Set(requests.filter(({ flight }) => flight.leaving)))
        this.awaiting.set(of.stepId, new Set(requests.filter(({ flight }) => flight.awaitsStep > 0)))
      }
      return isWork
    }
    this.turns = new TurnBooks(driver, (id) => this.seen.get(id)!)
    // Admission is looked at when it happens: what the same plan grants afterwards may come out of the room that it left.
    const { memory } = scheduler
    const admit = memory.admit.bind(memory)
    memory.admit = (request, headroom) => {
      const ahead = growthAhead(driver, request, this.config, ({ id }) => this.seen.get(id)!.outputs)
      const isAdmitted = admit(request, headroom)
      if (isAdmitted) this.checkHeadroom(request, ahead)
      return isAdmitted
    }
  }

  submitted(requests: ReadonlyArray<Request>, now: number): void {
    for (const request of requests) {
      const blank = {
        outputs: 0,
        bypasses: 0,
        preemptions: 0,
        pausedSince: 0,
        pausedAt: -1,
        prefillMicros: 0,
        runsSince: Number.POSITIVE_INFINITY,
        hasTurn: false,
        frontSince: -1,
        hasFirstToken: false,
        startsOver: false,
        ended: false,
      }
      this.seen.set(request.id, { request, arrived: now, kept: [request.promptLength], ...blank })
      this.put(request)
    }
    this.noteServed()
  }

  put({ id, contentId }: Request): void {
    const seen = this.seen.get(id)!
    this.byContent.set(contentId, seen)
    if (seen.outputs === 0 || seen.pausedAt === seen.outputs) return
    seen.pausedAt = seen.outputs
    seen.pausedSince = this.now
  }

  ended(request: Request): void {
    this.seen.get(request.id)!.ended = true
  }

  /** The loop let a request start over. */
  preempted(request: Request): void {
    const seen = this.seen.get(request.id)!
    seen.preemptions++
    seen.hasFirstToken = false
    seen.startsOver = true
  }

  /** The executor has lost everything. */
  failed(): void {
    this.noteServed()
    this.slots.clear()
    this.decoding.clear()
    this.flying.length = 0
  }

  // ------------------------------------------------------------------------------------------------------ plans

  /** Plans that one tick made, before any of them runs. */
  planned(plans: ReadonlyArray<StepPlan>, now: number): void {
    const chargedBy = new Map<string, number>()
    for (const plan of plans) {
      this.checkVictims(plan.stepId, now)
      const waited = this.someoneWaits
      const front = this.front(plan, now)
      this.apply(plan, front, (tenant, tokens) => {
        chargedBy.set(tenant, (chargedBy.get(tenant) ?? 0) + tokens)
      })
      this.checkItems(plan)
      this.checkRows(plan)
      this.checkBudget(plan, waited)
      this.checkLoad(plan)
      this.fly(plan)
    }
    // Somebody may have given way to a plan that then held nothing.
    if (this.gaveWay.length > 0) this.checkVictims(this.gaveWay[0]![0], now)
    this.checkCharges(chargedBy, "prompt tokens computed")
    this.checkPatience()
    this.made.length = 0
  }

  /** A step's result, before the loop takes it. */
  ran(plan: StepPlan, result: StepResult): void {
    this.checkWindows(plan)
    const { owners, firsts } = this.flying.shift()!
    const { data, length } = result.selections
    for (let i = 0; i < length; i += 4 + data[i + 3]!) {
      const seen = owners.get(data[i]!)
      if (seen === undefined || data[i + 1]! + 1 < seen.kept.length) continue
      const bitmap = Uint32Array.from(data.subarray(i + 4, i + 4 + data[i + 3]!))
      seen.kept.push(keptRows(bitmap, { rows: seen.kept.at(-1)!, ...this.config.schedule }))
    }
    for (const [source, target] of firsts) {
      const from = owners.get(source)
      const to = owners.get(target)
      if (from !== undefined && to !== undefined && from !== to) to.kept = [...from.kept]
    }
    this.noteServed()
  }

  /** The loop has taken a step's result, and given out these tokens. */
  committed(requests: ReadonlyArray<Request>): void {
    const chargedBy = new Map<string, number>()
    for (const { id, tenant } of requests) {
      const seen = this.seen.get(id)!
      seen.outputs++
      if (!seen.startsOver) seen.hasFirstToken = true
      chargedBy.set(tenant, (chargedBy.get(tenant) ?? 0) + 2)
    }
    this.checkCharges(chargedBy, "output tokens")
  }

  private apply(plan: StepPlan, front: Seen | null, charge: (tenant: string, tokens: number) => void): void {
    for (const slot of plan.leaves.toArray()) this.decoding.delete(slot)
    for (const slot of plan.closes.toArray()) this.slots.delete(slot)
    const opens = plan.opens.toArray()
    let begunAfterFront = 0
    const turn = this.turn(({ request }) => this.leaving.get(plan.stepId)!.has(request))
    for (let i = 0; i < opens.length; i += 2) {
      const seen = this.byContent.get(opens[i + 1]!)!
      const isNew = !this.everOpened.has(seen)
      this.everOpened.add(seen)
      seen.startsOver = false
      this.slots.set(opens[i]!, { seen, replayed: seen.outputs, decodeRows: 0 })
      seen.runsSince = Number.POSITIVE_INFINITY
      seen.hasTurn = seen === turn
      if (seen.outputs > 0 && !this.turns.noteResumed(this.now)) {
        broken("an answer that goes on counts as computed again", `request ${seen.request.id}`)
      }
      if (seen.request.phase === "fork") continue
      if (isNew) charge(seen.request.tenant, seen.request.promptLength - seen.request.account.cachedTokens)
      if (front !== null && front.request.id < seen.request.id && !seen.hasTurn) begunAfterFront++
    }
    // Whose slot is whose is known once all are open: the front may be opened behind those that it is planned with.
    if (front !== null && begunAfterFront > 0 && !this.isAwaiting(front, plan) && !this.isServed(front, plan)) {
      front.bypasses += begunAfterFront
      const most = this.config.protectAfter + this.config.slots
      if (front.bypasses + front.preemptions > most) {
        broken("the front is passed over so often at most", `request ${front.request.id} ${front.bypasses} times`)
      }
    }
    for (let i = 0; i < plan.joins.length; i += 2) this.decoding.add(plan.joins.data[i]!)
    for (const slot of this.decoding) this.slots.get(slot)!.decodeRows++
  }

  private readonly everOpened = new Set<Seen>()
  /**
   * The only request there is, as the last plan is made: it was accepted since it fits, and all that is cached makes room for it. Not one
   * that has copies of cached pages, which another was first to publish: it may start over, and then reads those.
   */
  private alone: Request | null = null

  private fly(plan: StepPlan): void {
    const firsts = firstsOf(plan)
    for (const [, target] of firsts) this.slots.get(target)!.seen.runsSince = this.now
    const owners = new Map([...this.slots].map(([slot, { seen }]) => [slot, seen]))
    this.flying.push({ stepId: plan.stepId, owners, firsts })
  }

  /** A first token that others will follow is being computed. */
  private get someoneWaits(): boolean {
    return this.flying.some(({ firsts, owners }) =>
      firsts.some(([, target]) => {
        const seen = owners.get(target)
        if (seen === undefined || seen.ended || seen.startsOver || seen.request.flight.leaving) return false
        // Answers to a prompt that was preempted start over with it.
        if (seen.request.leader?.flight.leaving === true) return false
        return seen.request.maxTokens > seen.outputs + 1
      }),
    )
  }

  // ------------------------------------------------------------------------------------------------- properties

  private rowsOf({ seen, replayed }: OpenSlot, segment: number): number {
    const { kept, request } = seen
    return (request.drops ? kept[Math.min(segment, kept.length - 1)]! : kept[0]!) + replayed
  }

  /** Room is left for the answers of those that run. The oldest prompt may go first, and whose turn it is, and then needs to leave none. */
  private checkHeadroom(request: Request, ahead: number): void {
    const { memory, waiting, prefilling } = this.driver.scheduler
    const samplesNow = (slot: number) => this.made.some((plan) => firstsOf(plan).some(([, target]) => target === slot))
    const isOldest = [...waiting, ...prefilling].every(
      ({ id, slot }) => id >= request.id || this.isSampled(this.seen.get(id)!) || samplesNow(slot),
    )
    if (isOldest || this.turn()?.request === request || memory.unreserved >= ahead) return
    broken(
      "an admission leaves room for those that run",
      `request ${request.id} leaves ${memory.unreserved} slabs of ${ahead}`,
    )
  }

  private checkItems(plan: StepPlan): void {
    const { chunkRows = 64 } = this.config
    for (const { slot, firstRow, rows, firstSegment } of itemsOf(plan)) {
      const all = this.rowsOf(this.slots.get(slot)!, firstSegment)
      const end = firstRow + rows
      if (firstRow % chunkRows !== 0 || (end % chunkRows !== 0 && end !== all)) {
        broken("prompts are cut at whole chunks", `rows ${firstRow} to ${end} of ${all}, chunks of ${chunkRows}`)
      }
    }
  }

  /** Every segment of a step takes its prefill rows and the decode rows: items that run on count with every row kept. */
  private checkRows(plan: StepPlan): void {
    const { layout, maxRowsPerStep } = this.config
    const rows = Array<number>(layout.segments.length).fill(this.decoding.size)
    for (const item of itemsOf(plan)) {
      const open = this.slots.get(item.slot)!
      for (let s = item.firstSegment; s <= item.lastSegment; s++) {
        rows[s]! += s === item.firstSegment || !open.seen.request.drops ? item.rows : this.rowsOf(open, s)
      }
    }
    if (rows.some((count) => count > maxRowsPerStep)) {
      broken("no segment of a step has more rows than a step may", `${rows.join()}, at most ${maxRowsPerStep}`)
    }
  }

  /** The scheduler's own picture of the step, by which it was fitted to the budget. */
  private checkLoad(plan: StepPlan): void {
    const load = this.loads.get(plan.stepId)!
    const segments = this.config.layout.segments.length
    const own = { items: 0, rows: Array<number>(segments).fill(0), keys: Array<number>(segments).fill(0) }
    for (const slot of this.decoding) {
      const open = this.slots.get(slot)!
      for (let s = 0; s < segments; s++) own.keys[s]! += this.rowsOf(open, s) + open.decodeRows
    }
    for (const { slot, rows, firstSegment, lastSegment } of itemsOf(plan)) {
      const open = this.slots.get(slot)!
      own.items++
      for (let s = firstSegment; s <= lastSegment; s++) {
        own.rows[s]! += s === firstSegment || !open.seen.request.drops ? rows : this.rowsOf(open, s)
      }
    }
    const told = { items: load.items, rows: [...load.rows], keys: [...load.decodeKeys] }
    if (load.decodeRows !== this.decoding.size || JSON.stringify(told.keys) !== JSON.stringify(own.keys)) {
      broken(
        "the keys of decodes are counted",
        `${load.decodeRows} rows, ${told.keys.join()}; ${this.decoding.size}, ${own.keys.join()}`,
      )
    }
    if (told.items !== own.items || JSON.stringify(told.rows) !== JSON.stringify(own.rows)) {
      broken(
        "the step's load is what it holds",
        `${told.items} items, ${told.rows.join()}; ${own.items}, ${own.rows.join()}`,
      )
    }
  }

  /** What is in force. */
  private get config(): DriverConfig {
    return this.driver.settings
  }

  /** Rows are what a step costs here. */
  private checkBudget(plan: StepPlan, someoneWaits: boolean): void {
    const tokenBudget = this.config.policy.tokenBudget
    const { rowMicros } = this
    if (rowMicros === null || tokenBudget !== undefined || plan.items.length === 0) return
    const decodes = this.decoding.size
    let rows = decodes
    let smallest = 0
    for (const item of itemsOf(plan)) {
      const open = this.slots.get(item.slot)!
      smallest = Math.max(smallest, item.rows)
      if (!open.seen.request.drops) rows += item.rows * this.config.layout.segments.length
      else {
        rows += item.rows
        for (let s = item.firstSegment + 1; s <= item.lastSegment; s++) rows += this.rowsOf(open, s)
      }
    }
    const { stepBudgetMicros, idleStepBudgetMicros, prefillFloor = 0.2, chunkRows = 64 } = this.config
    const budget = someoneWaits || decodes > 0 ? stepBudgetMicros : idleStepBudgetMicros
    const most = Math.max(budget / rowMicros, decodes / (1 - prefillFloor))
    // One smallest chunk: with nothing else to do, after too long, or as what was owed.
    if (rows > most && !(plan.itemCount === 1 && smallest <= chunkRows)) {
      broken("prefill stays within the budget", `${rows} rows with ${decodes} decodes, at most ${most}`)
    }
  }

  private checkWindows(plan: StepPlan): void {
    const { tables, pageSize } = this.config.layout
    const chunk = new Map(itemsOf(plan).map(({ slot, rows }) => [slot, rows]))
    for (const slot of this.runner.slots) {
      for (const [t, { kind, window }] of tables.entries()) {
        if (kind !== "sliding") continue
        const rows = chunk.has(slot) || !this.decoding.has(slot) ? this.config.maxRowsPerStep : pageSize
        const most = Math.ceil((window + rows) / pageSize) + 1
        const held = this.runner.pagesHeld(slot, t)
        // What its prompt no longer needs is given back with the first page that its output takes.
        const isSettled = this.decoding.has(slot) && this.slots.get(slot)!.decodeRows > pageSize
        if (isSettled && held > most) {
          broken("a window's pages are given back", `slot ${slot} holds ${held} of table ${t}, at most ${most}`)
        }
      }
    }
  }

  private checkCharges(expected: ReadonlyMap<string, number>, what: string): void {
    for (const tenant of this.driver.scheduler.state.tenants.all) {
      const before = this.served.get(tenant.name)
      if (before === undefined) continue
      const more = expected.get(tenant.name) ?? 0
      if (tenant.served - before !== more) {
        broken(
          `a tenant is charged its ${what}`,
          `${tenant.name || "nobody"}: ${tenant.served - before}, expected ${more}`,
        )
      }
    }
    this.noteServed()
  }

  private noteServed(): void {
    this.served = new Map([...this.driver.scheduler.state.tenants.all].map(({ name, served }) => [name, served]))
  }

  // ------------------------------------------------------------------------------------------------ who goes first

  /** Whose turn it is to take memory. */
  turn(isLeaving = ({ request }: Seen) => request.flight.leaving): Seen | null {
    return this.turns.next(this.seen.values(), isLeaving, this.now)
  }

  /** The oldest prompt without a first token that waits or is in prefill: one that has given way waits once its steps are over. */
  private front({ stepId }: StepPlan, now: number): Seen | null {
    let front: Seen | null = null
    for (const one of this.seen.values()) {
      if (one.ended || one.hasFirstToken || one.request.phase === "fork" || one.request.leader !== null) continue
      if (this.isSampled(one) || this.leaving.get(stepId)!.has(one.request)) continue
      if (front === null || one.request.id < front.request.id) front = one
    }
    if (front !== null && front.frontSince < 0) front.frontSince = now
    return front
  }

  /** Its first token is being computed. */
  private isSampled(one: Seen): boolean {
    if (one.startsOver) return false
    return this.flying.some(({ firsts, owners }) => firsts.some(([, target]) => owners.get(target) === one))
  }

  /** A selection is in flight for it. */
  private isAwaiting({ request }: Seen, { stepId }: StepPlan): boolean {
    return this.awaiting.get(stepId)!.has(request)
  }

  private isServed(one: Seen, plan: StepPlan): boolean {
    return itemsOf(plan).some(({ slot }) => this.slots.get(slot)?.seen === one)
  }

  private isProtected(one: Seen, now: number): boolean {
    const { protectAfter, protectAfterMicros } = this.config
    return one.bypasses + one.preemptions >= protectAfter || now - one.arrived > protectAfterMicros
  }

  /** What protection is decided by: a request has been passed over and preempted as often as the loop says. */
  private checkPatience(): void {
    for (const { request, bypasses, preemptions, ended } of this.seen.values()) {
      const { account } = request
      if (ended || (account.bypasses === bypasses && account.preemptions === preemptions)) continue
      broken(
        "a request is counted as passed over and preempted as often as it is",
        `request ${request.id}: ${account.bypasses} and ${account.preemptions}, seen ${bypasses} and ${preemptions}`,
      )
    }
  }

  /** Who gave way was the last in rank, and never the oldest protected one. */
  private checkVictims(stepId: number, now: number): void {
    const preempted = this.gaveWay.filter(([to]) => to === stepId).map(([, one]) => one)
    if (preempted.length === 0) return
    this.gaveWay.splice(0, preempted.length)
    const running = new Set(
      [...this.slots.values()].map(({ seen }) => seen).filter((one) => !one.ended && !one.startsOver),
    )
    const guard = this.guard(running, now)
    const { protectAfter } = this.config
    // An older one that gave way first is protected by that.
    const takesOver = (victim: Request) => (other: Request) => {
      const { bypasses, preemptions } = this.seen.get(other.id)!
      return other.id < victim.id && bypasses + preemptions + 1 >= protectAfter
    }
    for (const victim of preempted) {
      if (victim === this.alone) broken("the only request there is does not give way", `request ${victim.id}`)
      if (guard?.request === victim && guard.preemptions >= protectAfter && !preempted.some(takesOver(victim))) {
        broken("the oldest protected request is nobody's victim", `request ${victim.id}`)
      }
      const isBehind = this.rankOf(this.config.policy.name)
      if (isBehind === null) continue
      if (this.turn() !== null && this.turns.hasRunAWhile(this.seen.get(victim.id)!, this.now)) continue
      for (const seen of running) {
        const { request } = seen
        if (seen === guard || request.flight.leaving || preempted.includes(request)) continue
        const keeps = this.turns.holdsTurn(seen, this.now)
        const kept = this.turns.holdsTurn(this.seen.get(victim.id)!, this.now)
        if (keeps && !kept) continue
        if (request.phase === "prefill" || request.phase === "decode") {
          if (isBehind(request, victim) || (kept && !keeps)) {
            broken("who makes room is the last in rank", `request ${victim.id}, and not ${request.id}`)
          }
        }
      }
    }
    for (const request of preempted) this.preempted(request)
  }

  /** The oldest protected one of those that ran when the tick began and the first that waited. */
  private guard(running: ReadonlySet<Seen>, now: number): Seen | null {
    let first: Seen | null = null
    for (const one of this.seen.values()) {
      if (one.ended || running.has(one) || one.request.phase === "fork" || one.request.flight.leaving) continue
      if (first === null || one.request.id < first.request.id) first = one
    }
    let guard = first !== null && this.isProtected(first, now) ? first : null
    for (const one of running) {
      if (this.isProtected(one, now) && (guard === null || one.request.id < guard.request.id)) guard = one
    }
    return guard
  }

  /** Whether one comes after another where the policy's own rule is total; null for policies that say otherwise. */
  private rankOf(policy: string): ((one: Request, other: Request) => boolean) | null {
    if (policy === "fcfs" || policy === "shortest-prefill" || policy === "token-budget") return (a, b) => a.id > b.id
    return null
  }
}
