import { pagesFor } from "@uniprefill/units/Units"
import type { Books, Item, PlanLimits } from "./PlanBooks.ts"
import type { SlotBooks } from "./SlotBooks.ts"

/**
 * Checks that a slot has what its rows read and write: earlier rows computed, pages held, written ones not shared, and the
 * recurrent state at the right row.
 *
 * `check` throws when its condition does not hold.
 */
export class RowChecks {
  private readonly books: Books
  private readonly limits: PlanLimits
  private readonly check: (holds: boolean, detail: string) => void

  constructor(books: Books, limits: PlanLimits, check: (holds: boolean, detail: string) => void) {
    this.books = books
    this.limits = limits
    this.check = check
  }

  /** Requires: the slot is open. Mutates: its count of computed rows. */
  item({ slot: id, firstRow, rows, firstSegment, lastSegment }: Item): void {
    const slot = this.books.slots.get(id)!
    const last = this.limits.layout.segments.length - 1
    this.check(
      firstSegment >= 0 && firstSegment <= lastSegment && lastSegment <= last,
      `segments ${firstSegment} to ${lastSegment} of 0 to ${last}`,
    )
    const all = slot.prefillRows(firstSegment)
    const end = firstRow + rows
    const done = slot.computed[firstSegment]!
    this.check(firstRow === done, `first row ${firstRow}, slot ${id} has computed ${done} of segment ${firstSegment}`)
    this.check(rows >= 0 && end <= all, `rows ${firstRow} to ${end} of ${all}`)
    if (!slot.drops) {
      this.check(firstSegment === 0 && lastSegment === last, `slot ${id} does not drop: segments are 0 to ${last}`)
      this.check(rows > 0, "no rows")
      for (let segment = 0; segment <= last; segment++) this.checkPass(slot, id, segment, firstRow, end)
      slot.computed[0] = end
      return
    }
    this.check(
      slot.selected === firstSegment,
      `segment ${firstSegment}, slot ${id} has made ${slot.selected} selections`,
    )
    this.check(rows > 0 || firstSegment < last, "no rows, and no selection to make")
    this.check(
      end === all || firstSegment === lastSegment,
      `runs on to segment ${lastSegment}, but ends at row ${end} of ${all}`,
    )
    this.check(rows > 0 || end === all, `no rows, and ${all - end} of segment ${firstSegment} are missing`)
    this.checkPass(slot, id, firstSegment, firstRow, end)
    for (let segment = firstSegment + 1; segment <= lastSegment; segment++) {
      this.checkPass(slot, id, segment, 0, slot.prefillRows(segment))
    }
    slot.computed[firstSegment] = end
  }

  /** Pages that rows first … end − 1 of a segment write and read. */
  private checkPass(slot: SlotBooks, id: number, index: number, first: number, end: number): void {
    const { layout } = this.limits
    const segment = layout.segments[index]!
    if (segment.full >= 0) this.checkRows(slot, id, segment.full, 0, first, end)
    if (segment.sliding >= 0)
      this.checkRows(slot, id, segment.sliding, this.firstVisible(slot, index, first), first, end)
    if (segment.carry >= 0 && slot.drops) this.checkRows(slot, id, segment.carry, first, first, end)
    if (index > 0 && slot.drops && first < end) {
      const before = layout.segments[index - 1]!
      const rows = slot.prefillRows(index - 1)
      this.checkRows(slot, id, before.full, 0, rows, rows)
      this.checkRows(slot, id, before.carry, 0, rows, rows)
    }
    this.checkState(slot, id, index, first)
  }

  /** The recurrent state is behind the row before `next`. */
  private checkState(slot: SlotBooks, id: number, index: number, next: number): void {
    if (this.limits.layout.stateSlotBytes === 0) return
    this.check(slot.stateSlot >= 0, `slot ${id} has no recurrent state`)
    const absorbed = this.books.states.absorbed[slot.stateSlot]![index]
    this.check(
      absorbed === next,
      `slot ${id}: state has absorbed ${absorbed} rows of segment ${index}, next is ${next}`,
    )
  }

  /** Cost: what is wrong is put into words only where something is, since every step checks every row of its decode set. */
  decodeRow(id: number): void {
    const slot = this.books.slots.get(id)!
    const { layout, maxTokens } = this.limits
    const position = slot.content.tokens.length + slot.decoded
    if (position >= maxTokens) this.check(false, `slot ${id} is at token ${position}, at most ${maxTokens}`)
    for (let index = 0; index < layout.segments.length; index++) {
      const segment = layout.segments[index]!
      const row = slot.prefillRows(index) + slot.decoded
      if (segment.full >= 0) this.checkRows(slot, id, segment.full, 0, row, row + 1)
      if (segment.sliding >= 0)
        this.checkRows(slot, id, segment.sliding, this.firstVisible(slot, index, row), row, row + 1)
      this.checkState(slot, id, index, row)
    }
    const carry = slot.decodeCarryTable(layout)
    const row = slot.prefillRows(0) + slot.decoded
    if (carry >= 0) this.checkRows(slot, id, carry, row, row, row + 1)
  }

  /** The table holds rows lo … end − 1, and those from `first` may be written. */
  private checkRows(slot: SlotBooks, id: number, t: number, lo: number, first: number, end: number): void {
    const { pageSize, tables } = this.limits.layout
    const { slabsPerPage } = tables[t]!
    const { slabs, freedPages } = slot.tables[t]!
    const pages = freedPages + slabs.length / slabsPerPage
    const firstPage = Math.floor(lo / pageSize)
    if (lo < end && firstPage < freedPages) {
      this.fail(id, t, `row ${lo} is in page ${firstPage}, ${freedPages} were given back`)
    }
    const needed = pagesFor(end, pageSize)
    if (needed > pages) this.fail(id, t, `${end} rows need ${needed} pages, it holds ${pages}`)
    if (first >= end) return
    const to = (needed - freedPages) * slabsPerPage
    for (let i = (Math.floor(first / pageSize) - freedPages) * slabsPerPage; i < to; i++) {
      const slab = slabs[i]!
      const fault = this.books.memory.writeFault(slab)
      if (fault !== null) this.fail(id, t, `rows from ${first} would write slab ${slab}, ${fault}`)
    }
  }

  private fail(id: number, t: number, detail: string): void {
    this.check(false, `slot ${id} table ${t} (${this.limits.layout.tables[t]!.kind}): ${detail}`)
  }

  private firstVisible(slot: SlotBooks, segment: number, row: number): number {
    const { window } = this.limits.layout.tables[this.limits.layout.segments[segment]!.sliding]!
    const kept = Math.max(0, row - window + 1)
    // Counting original positions shows no more rows than counting kept ones.
    if (this.limits.schedule.windowBy === "kept" || (slot.drops && slot.kept.length <= segment)) return kept
    return slot.firstWithin(segment, row, window)
  }
}
