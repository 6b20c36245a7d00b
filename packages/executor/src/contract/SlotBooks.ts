import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import { bitmapWords, blockCount, keptIndices, type SelectionShape } from "@uniprefill/model/Selection"
import type { RequestContent } from "./Executor.ts"

/** Slabs of one page table. Pages given back at the front keep their numbers: row r lives in page ⌊r / pageSize⌋ still. */
export interface PageTable {
  readonly slabs: Array<number>
  freedPages: number
}

/** The rows of one segment's kept set S_i. */
export interface KeptSet {
  /** Original positions, ascending. */
  readonly positions: Int32Array
  /** The same rows as indices into the set before; for S_0 the positions themselves. */
  readonly source: Int32Array
  /** The selection that made it; null for S_0. */
  readonly bitmap: Uint32Array | null
}

/** One open slot: content, page tables, kept sets and how far each segment is computed. */
export class SlotBooks {
  readonly content: RequestContent
  readonly tables: ReadonlyArray<PageTable>
  /** Decided sets, S_0 first. Those that bitmaps of the content give are known from the start. */
  readonly kept: Array<KeptSet>
  /** Selections made by items so far; sets beyond are known but not reached yet. */
  selected: number
  /** Rows computed of each segment; a slot that does not drop counts in [0] alone. */
  readonly computed: Array<number>
  /** Whether another slot's prefill was adopted: every row is computed, and lies in that slot's pages until pages are mapped. */
  adopted: boolean
  /** Decode rows appended to every table. */
  decoded: number
  /** Output tokens: those of the content, then those sampled here. */
  readonly output: Array<number>
  /** Token of the next decode row, −1 before there is one. */
  nextToken: number
  /** State slot that the slot's recurrent state lives in, −1 without. */
  stateSlot: number

  constructor(content: RequestContent, tables: number, segments: number, schedule: DropSchedule) {
    this.content = content
    this.tables = Array.from({ length: tables }, () => ({ slabs: [], freedPages: 0 }))
    const all = Int32Array.from({ length: content.promptLength }, (_, i) => i)
    this.kept = [{ positions: all, source: all, bitmap: null }]
    this.selected = 0
    this.computed = Array.from({ length: segments }, () => 0)
    this.adopted = false
    this.decoded = 0
    this.output = Array.from(content.tokens.subarray(content.promptLength))
    this.nextToken = -1
    this.stateSlot = -1
    for (const bitmap of content.bitmaps) this.addSet(bitmap, schedule)
  }

  get drops(): boolean {
    return this.content.pQ32 !== null
  }

  /** Output tokens that the content brought: rows that follow the kept rows of every set. */
  get replayed(): number {
    return this.content.tokens.length - this.content.promptLength
  }

  /** Kept prompt rows of a segment; the last known set is an upper bound of those not decided yet. */
  keptRows(segment: number): number {
    return this.kept[this.drops ? Math.min(segment, this.kept.length - 1) : 0]!.positions.length
  }

  /** Rows that prefill computes in a segment. */
  prefillRows(segment: number): number {
    return this.keptRows(segment) + this.replayed
  }

  /** Original position of a row of a segment, decode rows included. */
  positionOf(segment: number, row: number): number {
    const { positions } = this.kept[this.drops ? segment : 0]!
    return row < positions.length ? positions[row]! : this.content.promptLength + row - positions.length
  }

  /** First row of a segment whose original position lies in the window of `row`'s. */
  firstWithin(segment: number, row: number, window: number): number {
    const position = this.positionOf(segment, row)
    let lo = row
    while (lo > 0 && position - this.positionOf(segment, lo - 1) < window) lo--
    return lo
  }

  shapeOf(segment: number, schedule: DropSchedule): SelectionShape {
    const { block, sink, lastQ } = schedule
    return { rows: this.keptRows(segment), block, sink, lastQ }
  }

  /** Appends the set that a bitmap over the last known one stands for. */
  addSet(bitmap: Uint32Array, schedule: DropSchedule): void {
    const before = this.kept[this.kept.length - 1]!
    const source = keptIndices(bitmap, this.shapeOf(this.kept.length - 1, schedule))
    this.kept.push({ positions: source.map((row) => before.positions[row]!), source, bitmap })
  }

  /** Whether nothing is computed yet, by items or by pages mapped. */
  get untouched(): boolean {
    return this.decoded === 0 && this.computed.every((rows) => rows === 0)
  }

  /** Whether its tables may still be given pages that others have computed. */
  get mayMap(): boolean {
    return this.untouched || (this.adopted && this.decoded === 0)
  }

  /** What keeps this slot from going on from the prefill of `source`, or null. */
  adoptionFault(source: SlotBooks): string | null {
    const { tokens, promptLength, pQ32 } = source.content
    const own = this.content
    if (!this.untouched) return "has rows of its own"
    if (this.tables.some(({ slabs, freedPages }) => slabs.length + freedPages > 0)) return "has pages of its own"
    if (!equal(own.tokens, tokens) || own.promptLength !== promptLength) return "holds other tokens"
    if ((own.pQ32 === null) !== (pQ32 === null) || !equal(own.pQ32 ?? [], pQ32 ?? [])) return "drops otherwise"
    const other = this.kept.some(({ positions }, i) => !equal(positions, source.kept[i]?.positions ?? []))
    return other ? "brings other selections" : null
  }

  /** A second sequence from the same prompt goes on from what the first has computed. */
  adopt(source: SlotBooks): void {
    this.kept.splice(0, this.kept.length, ...source.kept)
    this.computed.splice(0, this.computed.length, ...source.computed)
    this.selected = source.selected
    this.adopted = true
  }

  /**
   * The carry table that the next decode row is written to as well, or −1: segment 0's in a slot that drops, when it has
   * the page of that row.
   */
  decodeCarryTable({ segments, tables, pageSize }: KvLayout): number {
    const { carry } = segments[0]!
    if (carry < 0 || !this.drops) return -1
    const { slabs, freedPages } = this.tables[carry]!
    const rows = (freedPages + slabs.length / tables[carry]!.slabsPerPage) * pageSize
    return this.prefillRows(0) + this.decoded < rows ? carry : -1
  }

  /** Rows that a table must go on holding: those that are there and will still be read. */
  neededRows(kind: "full" | "sliding" | "carry", segment: number): number {
    if (kind !== "carry") return this.computed[this.drops ? segment : 0]! + this.decoded
    if (!this.drops) return 0
    const next = segment + 1
    const isLast = next === this.computed.length - 1
    const done =
      this.kept.length > next && this.computed[next] === this.prefillRows(next) && (isLast || this.selected > next)
    return done ? 0 : this.computed[segment]!
  }

  /** Whether every row of every segment is computed, so that the slot may decode. */
  get prefilled(): boolean {
    return this.drops
      ? this.computed.every((rows, segment) => this.kept.length > segment && rows === this.prefillRows(segment))
      : this.computed[0] === this.prefillRows(0)
  }
}

const equal = <A>(a: ArrayLike<A>, b: ArrayLike<A>): boolean =>
  a.length === b.length && Array.prototype.every.call(a, (value, i) => value === b[i])

/** What is wrong with the bitmaps of a content, or null. They are checked in order: each depends on the one before. */
export const bitmapFault = (content: RequestContent, segments: number, schedule: DropSchedule): string | null => {
  if (content.bitmaps.length === 0) return null
  if (content.pQ32 === null) return `${content.bitmaps.length} bitmaps for a request that does not drop`
  if (content.bitmaps.length > segments - 1)
    return `${content.bitmaps.length} bitmaps, the schedule selects ${segments - 1} times`
  const slot = new SlotBooks({ ...content, bitmaps: [] }, 0, segments, schedule)
  for (const [i, bitmap] of content.bitmaps.entries()) {
    const shape = slot.shapeOf(i, schedule)
    if (bitmap.length !== bitmapWords(shape)) {
      return `bitmap ${i} has ${bitmap.length} words, ${shape.rows} rows need ${bitmapWords(shape)}`
    }
    const blocks = blockCount(shape)
    const extra = blocks % 32 === 0 ? 0 : bitmap[bitmap.length - 1]! >>> (blocks % 32)
    if (extra !== 0) return `bitmap ${i} has bits beyond its ${blocks} blocks`
    slot.addSet(bitmap, schedule)
  }
  return null
}
