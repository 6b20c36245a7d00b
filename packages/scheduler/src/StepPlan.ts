import { IntList } from "./IntList.ts"

/**
 * What one step does, as data: the one seam between the scheduler and every executor.
 *
 * Sections are applied in the order in which they are listed here; each is a list of fixed-width integer records.
 *
 * Contents (tokens, drop schedule, sampling parameters, bitmaps decided) are put into the executor under ids before the plan
 * that opens a slot for them. An executor keeps, for every open slot, its content, one page table per entry of
 * `KvLayout.tables`, the bitmaps decided so far and the last token sampled. A page table is a list of slabs, page after page,
 * `slabsPerPage` slabs each; row r of the table lives in page ⌊r / pageSize⌋.
 *
 * Failure. A step that fails, by its plan or its device, takes those behind it with it, and the executor forgets everything:
 * no slot is open, every slab and state slot is free, nobody decodes; contents that are not open stay. The next step has the
 * failed one's number.
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
 * plan, as may the source, whose slot may be closed by a later one: what both hold is free when the last of them goes.
 */
export class StepPlan {
  /** Ascending by one from 1; executors refuse a gap. */
  stepId = 0
  /** Time that the step was predicted to take, in µs; 0 where it holds no rows. For its maker: no part of its bytes. */
  predictedMicros = 0

  /** `[slab]`: the prefix cache takes a reference to the slab, which is read-only from now on. Before anything is given back. */
  readonly retains = new IntList()
  /** `[slot]`: leave the decode set. The last member takes the place of the one that leaves. */
  readonly leaves = new IntList()
  /** `[slot]`: forget the slot: the slabs of its tables, its state slot, its content. It is in no decode set. */
  readonly closes = new IntList()
  /** `[slot, contentId]`: the slot is closed; the content that was put under that id becomes the slot's and leaves the store. */
  readonly opens = new IntList()
  /** `[slot, table, pages]`: keep the first `pages` pages that the table still holds, give back the rest. */
  readonly trims = new IntList()
  /**
   * `[slot, table, pages]`: give back the first `pages` pages that the table still holds (sliding windows). In a table that
   * never held any, of a slot that has computed nothing or has adopted a prefill and not decoded: it begins without them.
   */
  readonly windowFrees = new IntList()
  /** `[slab]`: the prefix cache gives up its reference to the slab. */
  readonly evictions = new IntList()
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
    this.predictedMicros = 0
    for (let s = 0; s < this.lists.length; s++) this.lists[s]!.length = 0
  }

  /** Becomes a copy of another plan. */
  assign(other: StepPlan): void {
    this.clear(other.stepId)
    this.predictedMicros = other.predictedMicros
    for (let s = 0; s < this.lists.length; s++) this.lists[s]!.append(other.lists[s]!)
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

/** Number and record width of every section. Numbers are permanent and go into the encoding; a new section gets a new one. */
export const sectionFormats = {
  retains: { id: 1, width: 1 },
  leaves: { id: 2, width: 1 },
  closes: { id: 3, width: 1 },
  opens: { id: 4, width: 2 },
  trims: { id: 5, width: 3 },
  windowFrees: { id: 6, width: 3 },
  evictions: { id: 7, width: 1 },
  maps: { id: 8, width: 3 },
  grants: { id: 9, width: 3 },
  copies: { id: 10, width: 2 },
  states: { id: 11, width: 3 },
  joins: { id: 12, width: 2 },
  items: { id: 13, width: 5 },
  samples: { id: 14, width: 2 },
} as const

export type Section = keyof typeof sectionFormats

/** The sections in the order in which an executor applies them, which is that of their numbers. */
export const sections = Object.keys(sectionFormats) as ReadonlyArray<Section>

/** Integers per record. */
export const sectionWidths = Object.fromEntries(sections.map((name) => [name, sectionFormats[name].width])) as {
  readonly [S in Section]: number
}
