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
 * every table of kind full and sliding, and to the recurrent state, at the end of each. In a slot that drops, its input to
 * the first drop layer is written to carry 0 as well when that table has the row's page, and nowhere when it has not: so
 * pages of generated tokens can be cached as those of prompts are.
 *
 * Sharing. A slab is held by page tables and by the prefix cache, and free when nobody holds it. Rows are written only to
 * slabs that exactly one table holds and that the cache has not taken since they were granted; a plan that would write
 * another one is refused. Hence only full pages are shared, and a page that is not full is copied.
 *
 * Prefix hits. A slot that has computed nothing may begin with pages that others have computed: one plan leaves out the
 * pages before a sliding table's window (`windowFrees`), maps the rest (`maps`), and restores the recurrent state
 * (`states`), which must have absorbed just those rows. The rows up to the end of the shortest table count as computed: of
 * segment 0 with its carry in a slot that drops, of every segment in one that does not. The first item begins behind them.
 *
 * Forks. A slot with the tokens, prompt length, p and known selections of another one, and with neither rows nor pages of
 * its own, is sampled from the item that ends the other's prefill (`samples`): it adopts computed rows, kept sets and
 * selections, and draws its own token. Pages follow in a later plan, all in one: it leaves out what the source's sliding
 * tables have given back, maps the source's full pages, is granted a page for a last one that is not full and gets its
 * copy (`copies`), and restores the source's recurrent state before the source decodes. It may join the decode set in that
 * plan, as may the source, whose slot may be closed after it: what both hold is free when the last of them goes.
 */
export class StepPlan {
  /** Ascending by one from 1; executors refuse a gap. */
  stepId = 0

  /** `[slot]`: leave the decode set. The last member takes the place of the one that leaves. */
  readonly leaves = new IntList()
  /** `[slab]`: the prefix cache takes a reference to the slab, which is read-only from now on. Before anything is given back. */
  readonly retains = new IntList()
  /** `[slot, table, pages]`: keep the first `pages` pages that the table still holds, give back the rest. */
  readonly trims = new IntList()
  /**
   * `[slot, table, pages]`: give back the first `pages` pages that the table still holds (sliding windows). In a table that
   * never held any, of a slot that has computed nothing or has adopted a prefill and not decoded: it begins without them.
   */
  readonly windowFrees = new IntList()
  /** `[slab]`: the prefix cache gives up its reference to the slab. */
  readonly drops = new IntList()
  /**
   * `[slot, table, slab]`: append a slab that the cache or another table holds; of a slot that has computed nothing, or has
   * adopted a prefill and not decoded. See prefix hits and forks.
   */
  readonly maps = new IntList()
  /** `[slot, table, slab]`: append a free slab, which the table then holds alone. */
  readonly grants = new IntList()
  /** `[sourceSlab, targetSlab]`: copy a whole slab, to one that this plan grants, before anything of this step is computed. */
  readonly copies = new IntList()
  /** `[slot, operation, stateSlot]`: see {@link StateOperation}. */
  readonly states = new IntList()
  /** `[slot, token]`: join the decode set; its first row is `token`, or the slot's last sampled token when −1. */
  readonly joins = new IntList()
  /** `[slot, firstRow, rows, firstSegment, lastSegment]`: a piece of prefill; see {@link ItemField}. */
  readonly items = new IntList()
  /**
   * `[item, slot]`: sample a first token for `slot` from the last row of item number `item`, which ends its prefill; each slot
   * once. A slot other than the item's adopts the prefill: see forks.
   */
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

/**
 * What happens to a slot's recurrent state: cleared (the state slot becomes its own), saved to a state slot that nobody owns,
 * or restored from one: a snapshot, or the running state of another slot, which a fork goes on from.
 */
export const StateOperation = { zero: 0, snapshot: 1, restore: 2 } as const

/** The sections in the order in which an executor applies them; also their order in the encoding. */
export const sections = [
  "leaves",
  "retains",
  "trims",
  "windowFrees",
  "drops",
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
