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
 * A request is admitted when everything it could still need is free and not reserved for another, every row of its last
 * known set kept. Sets are nested, so each selection shrinks the reservation and no grant ever exceeds it: an admitted
 * request never waits for memory.
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

  /** The most slabs that a request can own at one time from here on, those it owns now included. */
  worstCase(request: Request): number {
    const finalRows = (segment: number) => request.rowsOf(segment) + request.maxTokens - 1
    const segments = this.layout.segments.length
    const decoding = request.phase === "decode"
    let slabs = 0
    let carries = 0
    for (let t = 0; t < this.layout.tables.length; t++) {
      const table = this.layout.tables[t]!
      if (table.kind !== "carry") slabs += Math.max(request.tables[t]!.length, this.mostSlabs(table, finalRows(table.segment)))
    }
    // While segment i is computed, the carry it reads and the carry it writes are both held.
    if (request.drops && !decoding) {
      for (let segment = request.segment; segment < segments; segment++) {
        carries = Math.max(carries, this.carrySlabs(request, segment - 1) + this.carrySlabs(request, segment))
      }
    }
    return slabs + carries
  }

  /** Takes a slot and reserves the worst case; false, and nothing taken, when it does not fit now. */
  admit(request: Request): boolean {
    if (this.freeSlots.length === 0 || (this.hasStates && this.freeStateSlots.length === 0)) return false
    const need = this.worstCase(request)
    if (this.pool.free - this.reserved < need) return false
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
      request.reservedSlabs--
      this.reserved--
    }
    if (request.reservedSlabs < 0) {
      throw new InvariantViolation("a grant stays within the reservation", { id: request.id, over: -request.reservedSlabs })
    }
  }

  /**
   * Sets aside what an item that runs on from its segment to `lastSegment` needs beyond the reservation: it holds the
   * carries of all its segments at once. False, and nothing set aside, when that is not free now.
   */
  reserveRun(request: Request, rows: number, lastSegment: number): boolean {
    let need = 0
    for (let t = 0; t < this.layout.tables.length; t++) {
      const table = this.layout.tables[t]!
      if (table.segment < request.segment || table.segment > lastSegment) continue
      const end = table.segment === request.segment ? request.computedRows + rows : request.prefillRows(table.segment)
      const held = request.freedPages[t]! * table.slabsPerPage + request.tables[t]!.length
      need += Math.max(0, pagesFor(end, this.layout.pageSize) * table.slabsPerPage - held)
    }
    const more = need - request.reservedSlabs
    if (more <= 0) return true
    if (more > this.pool.free - this.reserved) return false
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
    // The window moves on: pages will be needed at its other end.
    const most = this.mostSlabs(table, request.rowsOf(table.segment) + request.maxTokens - 1)
    const needed = Math.max(0, most - slabs.length) - Math.max(0, most - slabs.length - count)
    request.reservedSlabs += needed
    this.reserved += needed
    plan.windowFrees.push3(request.slot, tableIndex, pages)
  }

  /** Sets the reservation to what the request can still need; called when that has shrunk. */
  settle(request: Request): void {
    const reserved = this.worstCase(request) - request.ownedSlabs
    this.reserved += reserved - request.reservedSlabs
    request.reservedSlabs = reserved
  }

  /** Gives back all that the request owns. No planned step may still touch it. */
  release(request: Request): void {
    for (const slabs of request.tables) {
      for (let i = 0; i < slabs.length; i++) this.releaseSlab(request, slabs.data[i]!)
      slabs.clear()
    }
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
    return pagesFor(request.rowsOf(segment) + request.replayedOutputs, this.layout.pageSize) * this.layout.tables[table]!.slabsPerPage
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
