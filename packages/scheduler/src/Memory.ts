import type { KvLayout, Table } from "@uniprefill/model/KvLayout"
import { pagesFor } from "@uniprefill/units/Units"
import { IntList } from "./IntList.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
import { type CachedPage, PrefixCache } from "./PrefixCache.ts"
import type { Request } from "./Request.ts"
import { SlabPool } from "./SlabPool.ts"
import type { StepPlan } from "./StepPlan.ts"
import { StateOperation } from "./StepPlan.ts"

/**
 * Who owns which slab, and what is set aside for whom.
 *
 * A request is admitted when the rest of its prefill, every row of its last known set kept, and one page of every class
 * are free and not reserved for another. Sets are nested, so each selection shrinks the reservation and no grant of
 * prefill exceeds it. Decoding beyond that page takes slabs that nobody has reserved; where there are none, the scheduler
 * finds relief.
 */
export class Memory {
  readonly pool: SlabPool
  readonly cache = new PrefixCache()
  /** Tokens looked up in the prefix cache, and found there. */
  prefixQueries = 0
  prefixHits = 0
  /** Slabs set aside for admitted requests and not granted yet; at most `pool.free` + `pool.draining`. */
  reserved = 0
  private readonly layout: KvLayout
  private readonly maxRowsPerStep: number
  private readonly freeSlots: Array<number> = []
  private readonly freeStateSlots: Array<number> = []
  private readonly hasStates: boolean
  private readonly allTables: ReadonlyArray<number>
  private readonly firstSegmentTables: ReadonlyArray<number>
  /** Trims of tables whose slabs were released at a commit: the next plan tells the executor. */
  private pendingTrims = new IntList()
  private pendingWindowFrees = new IntList()
  private readonly pendingRetains = new IntList()
  private readonly pendingDrops = new IntList()
  private readonly unretained: Array<Request> = []

  constructor(layout: KvLayout, slabs: number, slots: number, stateSlots: number, maxRowsPerStep: number) {
    this.layout = layout
    this.maxRowsPerStep = maxRowsPerStep
    this.pool = new SlabPool(slabs)
    this.hasStates = layout.stateSlotBytes > 0
    const plain = !this.hasStates && layout.tables.every((table) => table.kind !== "sliding")
    const tables = layout.tables.map((_, t) => t)
    this.allTables = plain ? tables.filter((t) => layout.tables[t]!.kind === "full") : []
    this.firstSegmentTables = plain ? tables.filter((t) => layout.tables[t]!.segment === 0) : []
    for (let slot = slots - 1; slot >= 0; slot--) this.freeSlots.push(slot)
    for (let slot = stateSlots - 1; slot >= 0; slot--) this.freeStateSlots.push(slot)
  }

  get slotsFree(): number {
    return this.freeSlots.length
  }

  get stateSlotsFree(): number {
    return this.freeStateSlots.length
  }

  /** The most slabs that a request can own at one time from here to its end, those it owns now included. */
  worstCase(request: Request): number {
    return this.most(request, request.maxTokens - 1)
  }

  /** The same to the end of its prefill and one page of decoding beyond. */
  private prefillCase(request: Request): number {
    return this.most(request, this.reservedOutputs(request))
  }

  /** Output rows that a reservation covers in each class. */
  private reservedOutputs(request: Request): number {
    return Math.min(request.maxTokens - 1, request.replayedOutputs + this.layout.pageSize)
  }

  private most(request: Request, outputRows: number): number {
    const finalRows = (segment: number) => request.rowsOf(segment) + outputRows
    const segments = this.layout.segments.length
    const decoding = request.phase === "decode"
    let slabs = 0
    let heldCarries = 0
    let carries = 0
    for (let t = 0; t < this.layout.tables.length; t++) {
      const table = this.layout.tables[t]!
      const held = request.tables[t]!.length
      if (table.kind === "carry") heldCarries += held
      else slabs += Math.max(held, this.mostSlabs(table, finalRows(table.segment)))
    }
    // While segment i is computed, the carry it reads and the carry it writes are both held.
    if (request.drops && !decoding) {
      for (let segment = request.segment; segment < segments; segment++) {
        carries = Math.max(carries, this.carrySlabs(request, segment - 1) + this.carrySlabs(request, segment))
      }
    }
    return slabs + Math.max(carries, heldCarries)
  }

  /** Slabs that can be granted now: free ones, and those of cached pages that nobody uses. */
  get available(): number {
    return this.pool.free + this.cache.idleSlabs
  }

  /** Slabs that requests hold; what is only cached counts as free. */
  get used(): number {
    return this.pool.used - this.cache.idleSlabs
  }

  /** Slabs that are available and set aside for nobody. */
  get unreserved(): number {
    return this.available - this.reserved
  }

  /** Whether a slot and what prefill needs are available and unreserved. */
  canAdmit(request: Request): boolean {
    if (this.freeSlots.length === 0 || (this.hasStates && this.freeStateSlots.length === 0)) return false
    let need = this.prefillCase(request)
    for (const page of this.hits(request)) if (page.users > 0) need -= page.slabs.length
    return need <= this.unreserved
  }

  /**
   * Takes a slot, maps the cached pages of the prompt and reserves what prefill needs; false, and nothing taken, when it
   * does not fit now.
   */
  admit(request: Request): boolean {
    if (!this.canAdmit(request)) return false
    request.slot = this.freeSlots.pop()!
    if (this.hasStates) request.stateSlot = this.freeStateSlots.pop()!
    this.prefixQueries += request.pageKeys.length > 0 ? request.promptLength : 0
    for (const page of this.hits(request)) {
      this.cache.acquire(page)
      request.cached.push(page)
      let at = 0
      for (const t of this.sharedTables(request)) {
        const { slabsPerPage } = this.layout.tables[t]!
        request.tables[t]!.pushAll(page.slabs, at, at + slabsPerPage)
        at += slabsPerPage
      }
    }
    request.computedRows = request.cached.length * this.layout.pageSize
    const hits = Math.min(request.computedRows, request.promptLength)
    this.prefixHits += hits
    if (request.firstScheduledMicros < 0) request.cachedTokens = hits
    this.settle(request)
    return true
  }

  /** Tells the executor of the cached pages that `admit` found. The slot is open by then. */
  mapHits(request: Request, plan: StepPlan): void {
    for (const t of this.sharedTables(request)) {
      const slabs = request.tables[t]!
      for (let i = 0; i < slabs.length; i++) plan.maps.push3(request.slot, t, slabs.data[i]!)
    }
  }

  /**
   * Publishes the pages of a request whose first `rows` rows of segment 0 are computed and committed. A page that another
   * request published first stays this one's own, and so do those behind it.
   */
  publish(request: Request, rows: number): void {
    const { pageSize } = this.layout
    const tables = this.sharedTables(request)
    if (tables.length === 0) return
    const pages = Math.min(Math.floor(rows / pageSize), request.pageKeys.length)
    for (let p = request.cached.length; p < pages; p++) {
      const key = this.keyOf(request, p)
      if (this.cache.get(key) !== undefined) return
      const slabs: Array<number> = []
      for (const t of tables) {
        const { slabsPerPage } = this.layout.tables[t]!
        const table = request.tables[t]!
        for (let i = p * slabsPerPage; i < (p + 1) * slabsPerPage; i++) slabs.push(table.data[i]!)
      }
      request.ownedSlabs -= slabs.length
      request.cached.push(this.cache.publish(key, slabs))
      request.unretained = true
      this.pendingRetains.pushAll(slabs)
      if (!this.unretained.includes(request)) this.unretained.push(request)
    }
  }

  /** Whether the next plan has pages to retain. */
  get hasRetains(): boolean {
    return this.pendingRetains.length > 0
  }

  /** What was published since the last plan is retained by this one, whose number it gets as its makers' last step. */
  retain(plan: StepPlan): void {
    plan.retains.pushAll(this.pendingRetains.data, 0, this.pendingRetains.length)
    this.pendingRetains.clear()
    for (const request of this.unretained) {
      request.unretained = false
      request.lastStep = plan.stepId
    }
    this.unretained.length = 0
    plan.drops.pushAll(this.pendingDrops.data, 0, this.pendingDrops.length)
    this.pendingDrops.clear()
  }

  /** Steps have failed: slots are closed without waiting for what they published to be retained. */
  abandonRetains(): void {
    for (const request of this.unretained) request.unretained = false
    this.unretained.length = 0
  }

  /**
   * Forgets every cached page after steps have failed and all slots are closed: what those steps retained is not retained,
   * what they dropped still is, and the next plan drops that with all the rest.
   */
  clearCache(failed: ReadonlyArray<StepPlan>): void {
    const unknown = new Set<number>()
    for (let i = 0; i < this.pendingRetains.length; i++) unknown.add(this.pendingRetains.data[i]!)
    for (const plan of failed) {
      for (let i = 0; i < plan.retains.length; i++) unknown.add(plan.retains.data[i]!)
      this.pendingDrops.pushAll(plan.drops.data, 0, plan.drops.length)
    }
    this.pendingRetains.clear()
    for (let page = this.cache.evict(); page !== undefined; page = this.cache.evict()) {
      for (const slab of page.slabs) {
        if (!unknown.has(slab)) this.pendingDrops.push(slab)
        this.pool.release(slab, 0)
      }
    }
    if (this.cache.slabs > 0)
      throw new InvariantViolation("no page is in use once every slot is closed", { slabs: this.cache.slabs })
  }

  /** Starts a plan: what was given back since the last one. */
  begin(plan: StepPlan): void {
    plan.trims.pushAll(this.pendingTrims.data, 0, this.pendingTrims.length)
    this.pendingTrims.clear()
    plan.windowFrees.pushAll(this.pendingWindowFrees.data, 0, this.pendingWindowFrees.length)
    this.pendingWindowFrees.clear()
  }

  /** A new request's recurrent state starts at zero. */
  openState(request: Request, plan: StepPlan): void {
    if (this.hasStates) plan.states.push3(request.slot, StateOperation.zero, request.stateSlot)
  }

  /** Grants the pages that a table needs to hold `rows` rows. */
  grow(request: Request, tableIndex: number, rows: number, plan: StepPlan): void {
    const table = this.layout.tables[tableIndex]!
    const slabs = request.tables[tableIndex]!
    const held = request.freedPages[tableIndex]! * table.slabsPerPage + slabs.length
    const need = pagesFor(rows, this.layout.pageSize) * table.slabsPerPage
    for (let i = held; i < need; i++) {
      if (this.pool.free === 0) this.evict(plan)
      const slab = this.pool.take()
      slabs.push(slab)
      plan.grants.push3(request.slot, tableIndex, slab)
      request.ownedSlabs++
      if (request.reservedSlabs > 0) {
        request.reservedSlabs--
        this.reserved--
      } else if (request.phase !== "decode") {
        throw new InvariantViolation("a grant of prefill stays within the reservation", {
          id: request.id,
          table: tableIndex,
        })
      }
    }
  }

  /** Slabs that the next decode row needs, over all tables. */
  decodeNeed(request: Request): number {
    const { pageSize } = this.layout
    let need = 0
    for (let t = 0; t < this.layout.tables.length; t++) {
      const table = this.layout.tables[t]!
      if (table.kind === "carry") continue
      const held = request.freedPages[t]! * table.slabsPerPage + request.tables[t]!.length
      const rows = request.prefillRows(table.segment) + request.decodeRows + 1
      need += Math.max(0, pagesFor(rows, pageSize) * table.slabsPerPage - held)
    }
    return need
  }

  /** Whether `need` slabs can be granted to a decoding request now; `soon`: once the steps in flight have committed. */
  canGrow(request: Request, need: number, soon = false): boolean {
    const own = Math.min(need, request.reservedSlabs)
    const draining = soon ? this.pool.draining : 0
    return need <= this.available + draining && need - own <= this.unreserved + draining
  }

  /** Slabs that a piece of prefill takes: `rows` rows of its segment and all rows of those up to `lastSegment`. */
  prefillNeed(request: Request, rows: number, lastSegment: number): number {
    let need = 0
    for (let t = 0; t < this.layout.tables.length; t++) {
      const table = this.layout.tables[t]!
      if (table.segment < request.segment || table.segment > lastSegment) continue
      if (table.kind === "carry" && !request.drops) continue
      const chunk = table.segment === request.segment || !request.drops
      const end = chunk ? request.computedRows + rows : request.prefillRows(table.segment)
      const held = request.freedPages[t]! * table.slabsPerPage + request.tables[t]!.length
      need += Math.max(0, pagesFor(end, this.layout.pageSize) * table.slabsPerPage - held)
    }
    return need
  }

  /**
   * Sets aside what an item that runs on from its segment to `lastSegment` needs beyond the reservation: it holds the
   * carries of all its segments at once. False, and nothing set aside, when that is not free now.
   */
  reserveRun(request: Request, rows: number, lastSegment: number): boolean {
    const need = this.prefillNeed(request, rows, lastSegment)
    const more = need - request.reservedSlabs
    if (more <= 0) return true
    if (more > this.unreserved) return false
    request.reservedSlabs += more
    this.reserved += more
    return true
  }

  /** Gives back the pages beyond those that hold `rows` rows; cached pages stay until the request gives up its slot. */
  trim(request: Request, tableIndex: number, rows: number): void {
    const table = this.layout.tables[tableIndex]!
    const slabs = request.tables[tableIndex]!
    const shared = this.sharedSlabs(request, tableIndex) / table.slabsPerPage
    const pages = Math.max(shared, pagesFor(rows, this.layout.pageSize) - request.freedPages[tableIndex]!)
    const keep = pages * table.slabsPerPage
    if (slabs.length <= keep) return
    for (let i = keep; i < slabs.length; i++) this.releaseSlab(request, slabs.data[i]!)
    slabs.length = keep
    this.pendingTrims.push3(request.slot, tableIndex, pages)
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
   * every row of the set before it), what no later row sees, and their carries but the one that feeds `segment`. The
   * reservation shrinks with it.
   */
  finishSegments(request: Request, segment: number): void {
    for (let t = 0; t < this.layout.tables.length; t++) {
      const table = this.layout.tables[t]!
      if (table.segment >= segment) continue
      const spent = table.kind === "carry" && table.segment < segment - 1
      const rows = spent ? 0 : request.prefillRows(table.segment)
      this.trim(request, t, rows)
      if (table.kind === "sliding") this.slide(request, t, rows, this.pendingWindowFrees)
    }
    this.settle(request)
  }

  /** Gives back what the next decode row no longer sees. */
  slideDecode(request: Request, tableIndex: number, nextRow: number, plan: StepPlan): void {
    this.slide(request, tableIndex, nextRow, plan.windowFrees)
  }

  /** Gives back what the rows to come of the segment being computed no longer see. */
  slideWindows(request: Request, plan: StepPlan): void {
    for (const [segment, { sliding }] of this.layout.segments.entries()) {
      if (sliding >= 0 && (segment === request.segment || !request.drops)) {
        this.slide(request, sliding, request.computedRows, plan.windowFrees)
      }
    }
  }

  /** Gives back the pages of a sliding table that no row from `nextRow` on can see. */
  private slide(request: Request, tableIndex: number, nextRow: number, frees: IntList): void {
    const table = this.layout.tables[tableIndex]!
    const firstVisible = nextRow - table.window + 1
    const pages = Math.floor(Math.max(0, firstVisible) / this.layout.pageSize) - request.freedPages[tableIndex]!
    if (pages <= 0) return
    const slabs = request.tables[tableIndex]!
    const count = pages * table.slabsPerPage
    for (let i = 0; i < count; i++) this.releaseSlab(request, slabs.data[i]!)
    slabs.data.copyWithin(0, count, slabs.length)
    slabs.length -= count
    request.freedPages[tableIndex]! += pages
    frees.push3(request.slot, tableIndex, pages)
    // The window moves on: pages will be needed at its other end.
    if (request.phase === "decode") return
    const most = this.mostSlabs(table, request.rowsOf(table.segment) + this.reservedOutputs(request))
    const needed = Math.max(0, most - slabs.length) - Math.max(0, most - slabs.length - count)
    request.reservedSlabs += needed
    this.reserved += needed
  }

  /** Sets the reservation to what the request can still need; called when that has shrunk. */
  settle(request: Request): void {
    const reserved = this.prefillCase(request) - this.held(request)
    this.reserved += reserved - request.reservedSlabs
    request.reservedSlabs = reserved
  }

  /** Gives back all that the request owns. No planned step may still touch it. */
  release(request: Request): void {
    for (const [t, slabs] of request.tables.entries()) {
      for (let i = this.sharedSlabs(request, t); i < slabs.length; i++) this.releaseSlab(request, slabs.data[i]!)
      slabs.clear()
    }
    for (const page of request.cached) this.cache.release(page)
    request.cached.length = 0
    request.freedPages.fill(0)
    this.reserved -= request.reservedSlabs
    request.reservedSlabs = 0
    if (request.slot >= 0) {
      this.pendingTrims = withoutSlot(this.pendingTrims, request.slot)
      this.pendingWindowFrees = withoutSlot(this.pendingWindowFrees, request.slot)
      this.freeSlots.push(request.slot)
      request.slot = -1
    }
    if (request.stateSlot >= 0) {
      this.freeStateSlots.push(request.stateSlot)
      request.stateSlot = -1
    }
  }

  /** Cached pages that a prompt starts with. Where no selection follows, its last row is always computed. */
  private hits(request: Request): Array<CachedPage> {
    const { pageSize } = this.layout
    const rows = request.drops ? request.promptLength : request.prefillRows(0) - 1
    const cacheable = this.sharedTables(request).length > 0
    const most = cacheable ? Math.min(request.pageKeys.length, Math.floor(rows / pageSize)) : 0
    const pages: Array<CachedPage> = []
    for (let p = 0; p < most; p++) {
      const page = this.cache.get(this.keyOf(request, p))
      if (page === undefined) break
      pages.push(page)
    }
    return pages
  }

  /** What a page means depends on which layers it holds. */
  private keyOf(request: Request, page: number): string {
    return (request.drops ? "first segment " : "all layers ") + request.pageKeys[page]!
  }

  /** Tables whose content depends on the prefix alone; none where windows or recurrent states would be needed too. */
  private sharedTables(request: Request): ReadonlyArray<number> {
    return request.drops ? this.firstSegmentTables : this.allTables
  }

  /** Slabs at the front of a table that belong to cached pages. */
  private sharedSlabs(request: Request, tableIndex: number): number {
    if (request.cached.length === 0 || !this.sharedTables(request).includes(tableIndex)) return 0
    const { length } = request.tables[tableIndex]!
    return Math.min(length, request.cached.length * this.layout.tables[tableIndex]!.slabsPerPage)
  }

  private held(request: Request): number {
    let slabs = 0
    for (const table of request.tables) slabs += table.length
    return slabs
  }

  private evict(plan: StepPlan): void {
    const page = this.cache.evict()
    if (page === undefined) return
    for (const slab of page.slabs) {
      plan.drops.push(slab)
      this.pool.release(slab, 0)
    }
  }

  private releaseSlab(request: Request, slab: number): void {
    this.pool.release(slab, request.lastStep)
    request.ownedSlabs--
  }

  private carrySlabs(request: Request, segment: number): number {
    const table = this.layout.segments[segment]?.carry ?? -1
    if (table < 0) return 0
    return (
      pagesFor(request.rowsOf(segment) + request.replayedOutputs, this.layout.pageSize) *
      this.layout.tables[table]!.slabsPerPage
    )
  }

  /** A sliding table that is filled chunk by chunk holds at most its window and one chunk. */
  private mostSlabs(table: Table, rows: number): number {
    const all = pagesFor(rows, this.layout.pageSize)
    if (table.kind !== "sliding") return all * table.slabsPerPage
    const within = pagesFor(table.window + this.maxRowsPerStep, this.layout.pageSize) + 1
    return Math.min(all, within) * table.slabsPerPage
  }
}

const withoutSlot = (records: IntList, slot: number): IntList => {
  const rest = new IntList(records.data.length)
  for (let i = 0; i < records.length; i += 3) {
    if (records.data[i] !== slot) rest.pushAll(records.data, i, i + 3)
  }
  return rest
}
