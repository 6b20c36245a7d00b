import type { KvLayout } from "@uniprefill/model/KvLayout"
import { pagesFor } from "@uniprefill/units/Units"
import { Demand } from "./Demand.ts"
import { IntList } from "./IntList.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
import type { PrefixTree } from "./PrefixTree.ts"
import { PrefixCache } from "./PrefixCache.ts"
import { listSlabs, makePages, noPages, type PageTables, removeSlot } from "./Holdings.ts"
import type { Request } from "./Request.ts"
import { servingDefaults } from "./ServingDefaults.ts"
import { Reservations } from "./Reservations.ts"
import { SlabPool } from "./SlabPool.ts"
import { passesTogether } from "./Span.ts"
import { StateOperation, type StepPlan } from "./StepPlan.ts"

export interface MemoryConfig {
  readonly layout: KvLayout
  readonly slabs: number
  readonly slots: number
  readonly stateSlots: number
  readonly maxRowsPerStep: number
  readonly resumeEvery?: number | undefined
}

/**
 * Who holds which slab, and what is set aside for whom.
 *
 * A request is admitted when the rest of its prefill, every row of its last known set kept, and one page of every class
 * are free and not reserved for another. Sets are nested, so each selection shrinks the reservation and no grant of
 * prefill exceeds it. Decoding beyond that page takes slabs that nobody has reserved; where there are none, the scheduler
 * finds relief.
 */
export class Memory {
  readonly pool: SlabPool
  readonly prefixes: PrefixCache
  readonly tree: PrefixTree
  readonly reservations: Reservations
  private readonly layout: KvLayout
  private readonly demand: Demand
  private readonly freeSlots: Array<number> = []
  private readonly freeStateSlots: Array<number> = []
  private readonly hasStates: boolean
  /** Tables that {@link holdsOutput} may be true of. */
  readonly outputTables: ReadonlyArray<number>
  /** Slabs of a page in each table that grows with the output for good. */
  private readonly slabsPerOutputPage: number
  /** Slabs that a decode row may need: a page of each of {@link outputTables}. */
  readonly mostDecodeNeed: number
  /** Tables of requests that are gone, as large as they grew: what a long prompt needs is allocated once. */
  private readonly sparePages: Array<PageTables> = []
  /** Trims of tables whose slabs were released at a commit: the next plan tells the executor. */
  private readonly pendingTrims = new IntList()
  private readonly pendingWindowFrees = new IntList()
  /** Slabs that may be kept for the cache while a request runs: what it may still need itself comes first. */
  private readonly spareFor = (request: Request): number => this.unreserved - this.demand.unreserved(request)
  private readonly giveStateSlot = (stateSlot: number): void => {
    this.freeStateSlots.push(stateSlot)
  }
  /** A state slot for a copy, −1 where there is none: every request that may still come finds one for its own state. */
  private readonly takeStateSlot = (): number =>
    this.freeStateSlots.length > this.freeSlots.length
      ? this.freeStateSlots.pop()!
      : this.prefixes.states.forgetOldest()

  constructor(config: MemoryConfig) {
    const { layout, slots, stateSlots, resumeEvery = servingDefaults.resumeEvery } = config
    this.layout = layout
    this.pool = new SlabPool(config.slabs)
    this.prefixes = new PrefixCache(layout, this.pool, resumeEvery)
    this.tree = this.prefixes.tree
    this.demand = new Demand(layout, this.prefixes, config.maxRowsPerStep)
    this.reservations = new Reservations(this.demand)
    this.hasStates = layout.stateSlotBytes > 0
    const tables = Array.from(layout.tables.keys())
    this.outputTables = tables.filter((t) => layout.tables[t]!.kind !== "carry" || layout.tables[t]!.segment === 0)
    this.mostDecodeNeed = this.outputTables.reduce((sum, t) => sum + layout.tables[t]!.slabsPerPage, 0)
    this.slabsPerOutputPage = layout.tables.reduce(
      (sum, { kind, slabsPerPage }) => sum + (kind === "full" ? slabsPerPage : 0),
      0,
    )
    for (let slot = slots - 1; slot >= 0; slot--) this.freeSlots.push(slot)
    for (let slot = stateSlots - 1; slot >= 0; slot--) this.freeStateSlots.push(slot)
  }

  get slotsFree(): number {
    return this.freeSlots.length
  }

  /** Tokens looked up in the prefix cache, and found there. */
  get prefixQueries(): number {
    return this.prefixes.queries
  }

  get prefixHits(): number {
    return this.prefixes.hits
  }

  /** Slabs that can be granted now: free ones, and those of cached pages that nobody uses. */
  get available(): number {
    return this.pool.free + this.tree.idleSlabs
  }

  /** Slabs that requests hold; what is only cached counts as free. */
  get used(): number {
    return this.pool.used - this.tree.idleSlabs
  }

  /** Slabs set aside for admitted requests and not granted yet. */
  get reserved(): number {
    return this.reservations.slabs
  }

  /** Slabs that are available and set aside for nobody. */
  get unreserved(): number {
    return this.available - this.reserved
  }

  /** The most slabs that a request, with its forks, can hold at one time from here to its end. */
  worstCase(request: Request): number {
    return this.demand.worstCase(request)
  }

  /** Slabs that the next `tokens` output tokens of a request take beyond the page that is reserved. */
  growthOf(request: Request, tokens: number): number {
    const left = Math.min(tokens, request.maxTokens - request.outputs)
    return Math.floor(left / this.layout.pageSize) * this.slabsPerOutputPage
  }

  /** Whether slots are free, and what prefill needs is available and unreserved with `headroom` slabs beyond. */
  canAdmit(request: Request, headroom = 0): boolean {
    const slots = 1 + request.forks.length
    if (this.freeSlots.length < slots || (this.hasStates && this.freeStateSlots.length < slots)) return false
    const need = this.prefillCase(request)
    for (let found = this.prefixes.find(request); ; found = this.prefixes.shorten(request)) {
      const more = this.prefixes.foundCost(request)
      if (need + more + headroom <= this.unreserved) return true
      // A hit keeps every window on its way: more than it saves, perhaps, and then a shorter one will do.
      if (more <= 0 || found === 0) return false
    }
  }

  /** Slabs that the prefill of a request that waits lacks, were nothing of it cached. */
  lackingFor(request: Request): number {
    return this.prefillCase(request) - this.unreserved
  }

  /**
   * Takes a slot, and one for each fork, the cached pages of the prompt, and a reservation for what prefill needs; false,
   * and nothing taken, when that does not fit now with `headroom` slabs beyond.
   */
  admit(request: Request, headroom = 0): boolean {
    if (!this.canAdmit(request, headroom)) return false
    this.takeSlot(request)
    for (const fork of request.forks) this.takeSlot(fork)
    const { prefixes } = this
    prefixes.adopt(request)
    request.progress.computedRows = request.holdings.cachedPages * this.layout.pageSize
    const hits = Math.min(request.progress.computedRows, request.promptLength)
    prefixes.queries += request.holdings.pageKeys.length > 0 ? request.promptLength : 0
    prefixes.hits += hits
    if (request.account.firstScheduledMicros < 0) request.account.cachedTokens = hits
    this.reservations.settle(request)
    return true
  }

  /** The first records of an admitted request, whose slot is open: its states start at zero or where its prefix ends. */
  open(request: Request, plan: StepPlan): void {
    if (this.hasStates) plan.states.push3(request.slot, StateOperation.zero, request.holdings.stateSlot)
    this.prefixes.map(request, plan)
  }

  /** Publishes what a committed step completed: the first `rows` rows of segment 0. */
  publish(request: Request, rows: number): void {
    const kept = this.prefixes.publish(request, rows, this.spareFor)
    // Pages of a window that stay when it moves on: those that take their place must be found elsewhere.
    if (kept > 0 && request.phase === "prefill") this.reservations.add(request, kept)
  }

  /** Starts a plan: what was given back since the last one. */
  begin(plan: StepPlan): void {
    plan.trims.append(this.pendingTrims)
    this.pendingTrims.clear()
    plan.windowFrees.append(this.pendingWindowFrees)
    this.pendingWindowFrees.clear()
  }

  /** Plans the copies of recurrent states that prefill may resume from. */
  saveStates(plan: StepPlan): void {
    this.prefixes.states.plan(plan, this.takeStateSlot)
  }

  /** Steps up to `stepId` have committed. */
  committed(stepId: number): void {
    this.pool.committed(stepId)
    this.prefixes.windows.committed(stepId)
    this.prefixes.states.committed(stepId, this.giveStateSlot)
  }

  /** After a step failed and every slot was given up: nothing is cached, everything is free. */
  reset(): void {
    this.pendingTrims.clear()
    this.pendingWindowFrees.clear()
    this.prefixes.reset(this.giveStateSlot)
    const { free, total } = this.pool
    if (free !== total) throw new InvariantViolation("everything is free after a reset", { free, total })
  }

  /** What was to be told of a slot's tables is not worth telling: the slot is closed. */
  closing(slot: number): void {
    removeSlot(this.pendingTrims, slot)
    removeSlot(this.pendingWindowFrees, slot)
  }

  /** Grants the pages that a table needs to hold `rows` rows. */
  grow(request: Request, tableIndex: number, rows: number, plan: StepPlan): void {
    const { pool } = this
    const { slabsPerPage } = this.layout.tables[tableIndex]!
    const slabs = request.holdings.tables[tableIndex]!
    const held = request.holdings.freedPages[tableIndex]! * slabsPerPage + slabs.length
    const count = pagesFor(rows, this.layout.pageSize) * slabsPerPage - held
    if (count <= 0) return
    while (pool.free < count && this.tree.idleSlabs > 0) this.evict(plan, count - pool.free)
    const at = slabs.extend(count)
    pool.take(slabs.data, at, count)
    listSlabs(plan.grants, request.slot, tableIndex, slabs, at)
    if (count > request.holdings.reservedSlabs && request.phase !== "decode") {
      const details = { id: request.id, table: tableIndex, count, reserved: request.holdings.reservedSlabs }
      throw new InvariantViolation("a grant of prefill stays within the reservation", details)
    }
    this.reservations.granted(request, count)
  }

  /** Slabs that the next decode row needs, over all tables. */
  decodeNeed(request: Request): number {
    const { outputTables, layout } = this
    const { progress } = request
    let need = 0
    for (let i = 0; i < outputTables.length; i++) {
      const t = outputTables[i]!
      const rows = progress.prefillRows(layout.tables[t]!.segment) + progress.decodeRows
      // A table holds the pages of its rows: only behind a full one it may lack the next.
      if (rows % layout.pageSize === 0 && this.holdsOutput(request, t)) need += this.lacking(request, t, rows + 1)
    }
    return need
  }

  /** Whether decode rows are appended to a table: all but carries, and carry 0 where output is cached. */
  holdsOutput(request: Request, tableIndex: number): boolean {
    const { kind, segment } = this.layout.tables[tableIndex]!
    return kind !== "carry" || (segment === 0 && request.holdings.keepsCarry)
  }

  /** Whether `need` slabs can be granted to a decoding request now; `soon`: once the steps in flight have committed. */
  canGrow(request: Request, need: number, soon = false): boolean {
    const own = Math.min(need, request.holdings.reservedSlabs)
    const draining = soon ? this.pool.draining : 0
    return need <= this.available + draining && need - own <= this.unreserved + draining
  }

  /** Slabs that a piece of prefill takes: `rows` rows of its segment and all rows of those up to `lastSegment`. */
  prefillNeed(request: Request, rows: number, lastSegment: number): number {
    let need = 0
    for (let t = 0; t < this.layout.tables.length; t++) {
      const table = this.layout.tables[t]!
      if (table.segment < request.progress.segment || table.segment > lastSegment) continue
      if (table.kind === "carry" && !request.drops) continue
      const chunk = passesTogether(request, request.progress.segment, table.segment)
      need += this.lacking(
        request,
        t,
        chunk ? request.progress.computedRows + rows : request.progress.prefillRows(table.segment),
      )
    }
    return need
  }

  /** Whether an item of so many rows that runs on to `lastSegment` finds what it needs beyond the reservation. */
  canRun(request: Request, rows: number, lastSegment: number): boolean {
    return this.prefillNeed(request, rows, lastSegment) - request.holdings.reservedSlabs <= this.unreserved
  }

  /**
   * Sets aside what an item that runs on from its segment to `lastSegment` needs beyond the reservation: it holds the
   * carries of all its segments at once. Requires {@link canRun}.
   */
  reserveRun(request: Request, rows: number, lastSegment: number): void {
    this.reservations.setAside(request, this.prefillNeed(request, rows, lastSegment))
  }

  /** Grants the pages that a segment's tables need to hold `rows` rows. */
  growSegment(request: Request, segment: number, rows: number, plan: StepPlan): void {
    const { full, sliding, carry } = this.layout.segments[segment]!
    if (full >= 0) this.grow(request, full, rows, plan)
    if (sliding >= 0) this.grow(request, sliding, rows, plan)
    if (carry >= 0 && request.drops) this.grow(request, carry, rows, plan)
  }

  /**
   * Every segment before `segment` is done: what was granted beyond their rows is given back (a fused item's pages, for
   * every row of the set before it), what no later row sees, and their carries but the one that feeds `segment` and what
   * is cached of the first. The reservation shrinks with it.
   */
  finishSegments(request: Request, segment: number): void {
    if (segment > 0 && request.holdings.keepsCarry) {
      // Pages with output can follow only where every page before them is cached.
      const full = Math.floor(request.progress.prefillRows(0) / this.layout.pageSize)
      if (request.holdings.cachedPages < full) request.holdings.keepsCarry = false
    }
    for (let t = 0; t < this.layout.tables.length; t++) {
      const table = this.layout.tables[t]!
      if (table.segment >= segment) continue
      const rows = request.progress.tableRows(table.segment)
      const spent = table.kind === "carry" && table.segment < segment - 1
      let pages: number = pagesFor(rows, this.layout.pageSize)
      if (spent && !(table.segment === 0 && request.holdings.keepsCarry))
        pages = table.segment === 0 ? request.holdings.cachedPages : 0
      this.trim(request, t, pages)
      if (table.kind === "sliding") this.slide(request, t, rows, this.pendingWindowFrees)
    }
    this.reservations.settle(request)
  }

  /** Gives back what the next decode row no longer sees. */
  slideDecode(request: Request, tableIndex: number, nextRow: number, plan: StepPlan): void {
    this.slide(request, tableIndex, nextRow, plan.windowFrees)
  }

  /** Gives back what the rows to come of the segment being computed no longer see. */
  slideWindows(request: Request, plan: StepPlan): void {
    for (let segment = 0; segment < this.layout.segments.length; segment++) {
      const { sliding } = this.layout.segments[segment]!
      if (sliding >= 0 && passesTogether(request, request.progress.segment, segment)) {
        this.slide(request, sliding, request.progress.computedRows, plan.windowFrees)
      }
    }
  }

  /** Slabs that must be available so that `fork` can go on from its leader's prefill. */
  forkNeed(leader: Request): number {
    const { pageSize, tables } = this.layout
    let need = 0
    for (let t = 0; t < tables.length; t++) {
      if (this.holdsOutput(leader, t) && leader.progress.prefillRows(tables[t]!.segment) % pageSize > 0) {
        need += tables[t]!.slabsPerPage
      }
    }
    return need
  }

  /**
   * A fork goes on from its leader's finished prefill: full pages by reference, the partial last one copied, since both will
   * write to it. Requires `forkNeed` slabs and a leader that has not decoded since.
   */
  fork(leader: Request, fork: Request, plan: StepPlan): void {
    const { layout, pool, tree } = this
    leader.holdings.isForked = fork.holdings.isForked = true
    fork.holdings.lastRun = leader.holdings.lastRun
    fork.holdings.cachedPages = leader.holdings.cachedPages
    for (let run = leader.holdings.lastRun; run !== null && run.parent !== null; run = run.parent) tree.acquire(run)
    this.reservations.add(fork, this.demand.ofForks(leader))
    if (this.hasStates) {
      plan.states.push3(fork.slot, StateOperation.zero, fork.holdings.stateSlot)
      plan.states.push3(fork.slot, StateOperation.restore, leader.holdings.stateSlot)
    }
    for (let t = 0; t < layout.tables.length; t++) {
      const { segment, slabsPerPage } = layout.tables[t]!
      const source = leader.holdings.tables[t]!
      const target = fork.holdings.tables[t]!
      const rows = leader.progress.prefillRows(segment)
      const freed = leader.holdings.freedPages[t]!
      const partial = this.holdsOutput(leader, t) && rows % layout.pageSize > 0 ? slabsPerPage : 0
      const shared = source.length - partial
      fork.holdings.freedPages[t] = freed
      if (freed > 0) plan.windowFrees.push3(fork.slot, t, freed)
      target.append(source, shared)
      pool.share(source.data, Math.min(shared, this.prefixes.slabsOfPrefix(leader, t)), shared)
      for (const [from, to] of this.prefixes.ownSlabs(leader, t, 0, shared)) pool.share(source.data, from, to)
      this.prefixes.share(leader, t)
      listSlabs(plan.maps, fork.slot, t, target, 0)
      if (partial === 0) continue
      this.grow(fork, t, rows, plan)
      for (let i = shared; i < source.length; i++) plan.copies.push2(source.data[i]!, target.data[i]!)
    }
    this.reservations.settle(fork)
  }

  /** Slabs in a request's tables that the prefix cache does not hold. */
  ownedSlabs(request: Request): number {
    let owned = 0
    for (let t = 0; t < this.layout.tables.length; t++) owned += this.prefixes.owned(request, t)
    return owned
  }

  /** Gives back all that the request owns. No planned step may still touch it. */
  release(request: Request): void {
    const { tables } = request.holdings
    for (let t = 0; t < tables.length; t++) {
      this.giveBack(request, t, 0, tables[t]!.length)
      tables[t]!.clear()
    }
    request.holdings.isForked = false
    // The last page first: what is evicted first has none behind it.
    for (let run = request.holdings.lastRun; run !== null && run.parent !== null; run = run.parent)
      this.tree.release(run)
    request.holdings.lastRun = null
    request.holdings.cachedPages = 0
    this.reservations.release(request)
    if (request.slot >= 0) {
      this.closing(request.slot)
      this.freeSlots.push(request.slot)
      request.holdings.slot = -1
      request.holdings.pages.freed.fill(0)
      this.sparePages.push(request.holdings.pages)
      request.holdings.pages = noPages(this.layout)
    }
    if (request.holdings.stateSlot >= 0) {
      this.freeStateSlots.push(request.holdings.stateSlot)
      request.holdings.stateSlot = -1
    }
  }

  /** Of a request that waits: counted once for as long as it does. */
  private prefillCase(request: Request): number {
    const { holdings } = request
    if (holdings.prefillSlabs < 0) holdings.prefillSlabs = this.demand.prefillCase(request)
    return holdings.prefillSlabs
  }

  private takeSlot(request: Request): void {
    request.holdings.slot = this.freeSlots.pop()!
    if (this.hasStates) request.holdings.stateSlot = this.freeStateSlots.pop()!
    request.holdings.pages = this.sparePages.pop() ?? makePages(this.layout)
  }

  /** Slabs that a table lacks to hold `rows` rows. */
  private lacking(request: Request, tableIndex: number, rows: number): number {
    const { slabsPerPage } = this.layout.tables[tableIndex]!
    const held = request.holdings.freedPages[tableIndex]! * slabsPerPage + request.holdings.tables[tableIndex]!.length
    return Math.max(0, pagesFor(rows, this.layout.pageSize) * slabsPerPage - held)
  }

  /** Gives back the pages of a table beyond the first `pages`, counted from its start. */
  private trim(request: Request, tableIndex: number, pages: number): void {
    const { slabsPerPage } = this.layout.tables[tableIndex]!
    const slabs = request.holdings.tables[tableIndex]!
    const keep = pages - request.holdings.freedPages[tableIndex]!
    if (slabs.length <= keep * slabsPerPage) return
    this.giveBack(request, tableIndex, keep * slabsPerPage, slabs.length)
    slabs.length = keep * slabsPerPage
    this.pendingTrims.push3(request.slot, tableIndex, keep)
  }

  /** Gives back the pages of a sliding table that no row from `nextRow` on can see. */
  private slide(request: Request, tableIndex: number, nextRow: number, frees: IntList): void {
    const table = this.layout.tables[tableIndex]!
    const firstVisible = nextRow - table.window + 1
    const pages =
      Math.floor(Math.max(0, firstVisible) / this.layout.pageSize) - request.holdings.freedPages[tableIndex]!
    if (pages <= 0) return
    const slabs = request.holdings.tables[tableIndex]!
    const count = pages * table.slabsPerPage
    const own = this.giveBack(request, tableIndex, 0, count)
    slabs.data.copyWithin(0, count, slabs.length)
    slabs.length -= count
    request.holdings.freedPages[tableIndex]! += pages
    frees.push3(request.slot, tableIndex, pages)
    // The window moves on: pages will be needed at its other end.
    if (request.phase !== "decode") this.reservations.add(request, this.demand.ofMovedWindow(request, tableIndex, own))
  }

  /** Gives slabs first … end − 1 of a table up, those that the cache has left out. Returns how many were given up. */
  private giveBack(request: Request, tableIndex: number, first: number, end: number): number {
    const { pool } = this
    const { holdings, flight } = request
    const { data } = holdings.tables[tableIndex]!
    const cached = Math.max(first, Math.min(end, this.prefixes.slabsOfPrefix(request, tableIndex)))
    let given = end - cached
    if (first < cached) {
      this.prefixes.giveUp(request, tableIndex, first, cached)
      for (const [from, to] of this.prefixes.ownSlabs(request, tableIndex, first, cached)) {
        given += to - from
        pool.release(data, from, to, flight.lastStep, holdings.isForked ? to : from)
      }
    }
    if (cached < end) pool.release(data, cached, end, flight.lastStep, holdings.isForked ? end : cached)
    return given
  }

  private evict(plan: StepPlan, slabs: number): void {
    const stateSlot = this.prefixes.evict(plan, slabs)
    if (stateSlot >= 0) this.freeStateSlots.push(stateSlot)
  }
}
