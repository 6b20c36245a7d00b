import { IntList } from "./IntList.ts"

/**
 * What one step does, as data: the one seam between the scheduler and every executor.
 *
 * Sections are applied in the order in which they are listed here; each is a list of fixed-width integer records.
 *
 * An executor keeps, for every open slot, its content (tokens, drop schedule, sampling parameters), one page table per
 * entry of `KvLayout.tables`, the bitmaps decided so far and the last token sampled. A page table is a list of slabs,
 * page after page, `slabsPerPage` slabs each; row r of the table lives in page ⌊r / pageSize⌋.
 *
 * Rows. The rows of segment i are the kept set S_i of the prompt (S_0 is the whole prompt) followed by the output tokens
 * that the slot was opened with (a resumed request). Item rows are numbered in that list. A decode row is appended to
 * every table of kind full, sliding or state at that table's own end.
 */
export class StepPlan {
  /** Ascending by one from 1; executors refuse a gap. */
  stepId = 0

  /** `[slot]`: leave the decode set. The last member takes the place of the one that leaves. */
  readonly leaves = new IntList()
  /** `[slot, table, pages]`: keep the first `pages` pages that the table still holds, give back the rest. */
  readonly trims = new IntList()
  /** `[slot, table, pages]`: give back the first `pages` pages that the table still holds (sliding windows). */
  readonly windowFrees = new IntList()
  /** `[slab]`: the prefix cache gives up its reference to the slab. */
  readonly drops = new IntList()
  /** `[slab]`: the prefix cache takes a reference to the slab, which is read-only from now on. */
  readonly retains = new IntList()
  /** `[slot, table, slab]`: append a cached, read-only slab to the table. */
  readonly maps = new IntList()
  /** `[slot, table, slab]`: append a slab that the slot owns alone to the table. */
  readonly grants = new IntList()
  /** `[sourceSlab, targetSlab]`: copy a whole slab before anything of this step is computed. */
  readonly copies = new IntList()
  /** `[slot, operation, stateSlot]`: see {@link StateOperation}. */
  readonly states = new IntList()
  /** `[slot, token]`: join the decode set; its first row is `token`, or the slot's last sampled token when −1. */
  readonly joins = new IntList()
  /** `[slot, firstRow, rows, firstSegment, lastSegment]`: a piece of prefill; see {@link ItemField}. */
  readonly items = new IntList()
  /** `[item, slot]`: sample a first token for `slot` from the last row of item number `item`. */
  readonly samples = new IntList()

  /** All of them, in the order of {@link sections}: for what goes over every one in every step. */
  readonly lists: ReadonlyArray<IntList> = sections.map((name) => this[name])

  clear(stepId: number): void {
    this.stepId = stepId
    for (let s = 0; s < this.lists.length; s++) this.lists[s]!.length = 0
  }

  get itemCount(): number {
    return this.items.length / sectionWidths.items
  }
}

/**
 * Fields of an item record.
 *
 * firstSegment = lastSegment: a chunk of one segment. When it computes the segment's last row and the segment is not the
 * schedule's last, the executor selects and returns the bitmap in the same step.
 *
 * firstSegment < lastSegment, in a slot that drops: the item computes the last row of firstSegment, selects, and goes on
 * through the segments up to and including lastSegment with all their rows. In a slot that does not drop: firstSegment
 * is 0, lastSegment the schedule's last, and the rows pass every layer without a selection.
 */
export const ItemField = { slot: 0, firstRow: 1, rows: 2, firstSegment: 3, lastSegment: 4 } as const

/** What happens to a recurrent state: cleared, saved to or restored from another state slot. */
export const StateOperation = { zero: 0, snapshot: 1, restore: 2 } as const

/** The sections in the order in which an executor applies them; also their order in the encoding. */
export const sections = [
  "leaves",
  "trims",
  "windowFrees",
  "drops",
  "retains",
  "maps",
  "grants",
  "copies",
  "states",
  "joins",
  "items",
  "samples",
] as const

export type Section = (typeof sections)[number]

/** Integers per record. */
export const sectionWidths: { readonly [S in Section]: number } = {
  leaves: 1,
  trims: 3,
  windowFrees: 3,
  drops: 1,
  retains: 1,
  maps: 3,
  grants: 3,
  copies: 2,
  states: 3,
  joins: 2,
  items: 5,
  samples: 2,
}
