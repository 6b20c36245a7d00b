import type { KvLayout, Table } from "@uniprefill/model/KvLayout"
import { pagesFor } from "@uniprefill/units/Units"
import { IntList } from "./IntList.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
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
  /** Slabs set aside for admitted requests and not granted yet; at most `pool.free` + `pool.draining`. */
  reserved = 0
  private readonly layout: KvLayout
  private readonly maxRowsPerStep: number
  private readonly freeSlots: Array<number> = []
  private readonly freeStateSlots: Array<number> = []
  private readonly hasStates: boolean
  /** Trims of tables whose slabs were released at a commit: the next plan tells the executor. */
  private pendingTrims = new IntList()

  constructor(layout: KvLayout, slabs: number, slots: number, stateSlots: number, maxRowsPerStep: number) {
    this.layout = layout
    this.maxRowsPerStep = maxRowsPerStep
    this.pool = new SlabPool(slabs)
    this.hasStates = layout.stateSlotBytes > 0
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
    return this.most(request, Math.min(request.maxTokens - 1, request.replayedOutputs + this.layout.pageSize))
  }

  private most(request: Request, outputRows: number): number {
    const finalRows = (segment: number) => request.rowsOf(segment) + outputRows
    const segments = this.layout.segments.length
    const decoding = request.phase === "decode"
    let slabs = 0
    let carries = 0
    for (let t = 0; t < this.layout.tables.length; t++) {
      const table = this.layout.tables[t]!
      if (table.kind !== "carry")
        slabs += Math.max(request.tables[t]!.length, this.mostSlabs(table, finalRows(table.segment)))
    }
    // While segment i is computed, the carry it reads and the carry it writes are both held.
    if (request.drops && !decoding) {
      for (let segment = request.segment; segment < segments; segment++) {
        carries = Math.max(carries, this.carrySlabs(request, segment - 1) + this.carrySlabs(request, segment))
      }
    }
    return slabs + carries
  }

  /** Slabs that are free and set aside for nobody. */
  get unreserved(): number {
    return this.pool.free - this.reserved
  }

  /** Whether a slot and what prefill needs are free and unreserved. */
  canAdmit(request: Request): boolean {
    if (this.freeSlots.length === 0 || (this.hasStates && this.freeStateSlots.length === 0)) return false
    return this.prefillCase(request) <= this.unreserved
  }

  /** Takes a slot and reserves what prefill needs; false, and nothing taken, when it does not fit now. */
  admit(request: Request): boolean {
    if (!this.canAdmit(request)) return false
    const need = this.prefillCase(request)
    request.slot = this.freeSlots.pop()!
    if (this.hasStates) request.stateSlot = this.freeStateSlots.pop()!
    request.reservedSlabs = need
    this.reserved += need
    return true
  }

  /** Starts a plan: what was given back since the last one. */
  begin(plan: StepPlan): void {
    plan.trims.pushAll(this.pendingTrims.data, 0, this.pendingTrims.length)
    this.pendingTrims.clear()
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
    return need <= this.pool.free + draining && need - own <= this.unreserved + draining
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

  /** Gives back the pages beyond those that hold `rows` rows. */
  trim(request: Request, tableIndex: number, rows: number): void {
    const table = this.layout.tables[tableIndex]!
    const slabs = request.tables[tableIndex]!
    const pages = Math.max(0, pagesFor(rows, this.layout.pageSize) - request.freedPages[tableIndex]!)
    const keep = pages * table.slabsPerPage
    if (slabs.length <= keep) return
    for (let i = keep; i < slabs.length; i++) this.releaseSlab(request, slabs.data[i]!)
    slabs.length = keep
    this.pendingTrims.push3(request.slot, tableIndex, pages)
  }

  /** Gives back the pages of a sliding table that no row from `nextRow` on can see. */
  slide(request: Request, tableIndex: number, nextRow: number, plan: StepPlan): void {
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
    plan.windowFrees.push3(request.slot, tableIndex, pages)
    // The window moves on: pages will be needed at its other end.
    if (request.phase === "decode") return
    const rows = request.prefillRows(table.segment) + this.layout.pageSize
    const most = this.mostSlabs(table, rows)
    const needed = Math.max(0, most - slabs.length) - Math.max(0, most - slabs.length - count)
    request.reservedSlabs += needed
    this.reserved += needed
  }

  /** Sets the reservation to what the request can still need; called when that has shrunk. */
  settle(request: Request): void {
    const reserved = this.prefillCase(request) - request.ownedSlabs
    this.reserved += reserved - request.reservedSlabs
    request.reservedSlabs = reserved
  }

  /** Gives back all that the request owns. No planned step may still touch it. */
  release(request: Request): void {
    for (const slabs of request.tables) {
      for (let i = 0; i < slabs.length; i++) this.releaseSlab(request, slabs.data[i]!)
      slabs.clear()
    }
    request.freedPages.fill(0)
    this.reserved -= request.reservedSlabs
    request.reservedSlabs = 0
    if (request.slot >= 0) {
      this.pendingTrims = withoutSlot(this.pendingTrims, request.slot)
      this.freeSlots.push(request.slot)
      request.slot = -1
    }
    if (request.stateSlot >= 0) {
      this.freeStateSlots.push(request.stateSlot)
      request.stateSlot = -1
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
