import type { KvLayout, Table } from "@uniprefill/model/KvLayout"
import { pagesFor } from "@uniprefill/units/Units"

/** Slabs of a prompt whose rows are known. */
export interface Footprint {
  /** K and V once the prompt is computed: what it holds while it decodes. */
  readonly slabs: number
  /** Carries, the most that is held at one time while it is computed; 0 for a prompt that does not drop. */
  readonly carrySlabs: number
}

/** `rows`: |S_i| for each segment of a prompt that drops; the prompt's length alone for one that does not. */
export const footprintOf = (layout: KvLayout, rows: ReadonlyArray<number>): Footprint => {
  const { pageSize, segments, tables } = layout
  const rowsOf = (segment: number) => rows[Math.min(segment, rows.length - 1)]!
  let slabs = 0
  for (const table of tables) if (table.kind !== "carry") slabs += slabsOf(table, rowsOf(table.segment), pageSize)
  const carry = (segment: number) => {
    const table = tables[segments[segment]?.carry ?? -1]
    return table === undefined ? 0 : slabsOf(table, rowsOf(segment), pageSize)
  }
  // A segment reads the carry of the one before and writes its own.
  const carrySlabs = rows.length === 1 ? 0 : Math.max(...segments.map((_, s) => carry(s - 1) + carry(s)))
  return { slabs, carrySlabs }
}

/** The window's rows may begin in the middle of a page. */
const slabsOf = ({ kind, window, slabsPerPage }: Table, rows: number, pageSize: number): number => {
  const pages = pagesFor(rows, pageSize)
  return slabsPerPage * (kind === "sliding" ? Math.min(pages, pagesFor(window, pageSize) + 1) : pages)
}
