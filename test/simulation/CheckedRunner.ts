import { contentFault } from "@uniprefill/executor/contract/ContentFault"
import { type ExecutorInfo, greedy, type RequestContent } from "@uniprefill/executor/contract/Executor"
import { applyPlan, Books, type Item, type PlanLimits } from "@uniprefill/executor/contract/PlanBooks"
import type { SlotBooks } from "@uniprefill/executor/contract/SlotBooks"
import { SlabMemory } from "@uniprefill/executor/reference/SlabMemory"
import type { KeepModel } from "@uniprefill/executor/simulated/KeepModel"
import type { TokenModel } from "@uniprefill/executor/simulated/SimulatedDevice"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { SelectionFlag, StepResult, TokenFlag } from "@uniprefill/scheduler/StepResult"

export interface CheckedContent {
  /** Names the request and this opening of a slot to the keep model. */
  readonly key: number
  /** Prompt and output so far; equal prefixes hold equal tokens. */
  readonly tokens: Int32Array
  readonly promptLength: number
  readonly drops: boolean
  readonly bitmaps: ReadonlyArray<Uint32Array>
}

/**
 * Carries out plans over real page tables without computing anything: every plan is checked as a whole, and in place of numbers
 * each page holds a mark of the rows that were written to it. Reading a page whose mark is not that of the reader's own rows,
 * one that was never written, or another request's, throws.
 */
export class CheckedRunner {
  readonly info: ExecutorInfo
  private readonly limits: PlanLimits
  private readonly keep: KeepModel
  private readonly token: TokenModel
  private readonly books: Books
  private readonly memory: SlabMemory
  /** Keys of contents, and of open slots. */
  private readonly contentKeys = new Map<number, number>()
  private readonly keys = new Map<number, number>()
  /** Of each open slot: mark of the first n tokens, n from 0. */
  private readonly prefixes = new Map<number, Array<number>>()

  constructor(
    limits: Omit<PlanLimits, "vocab" | "slots">,
    sizes: { readonly slabs: number; readonly slots: number; readonly stateSlots: number },
    keep: KeepModel,
    token: TokenModel,
  ) {
    const { layout, maxRowsPerStep, maxTokens } = limits
    this.limits = { ...limits, slots: sizes.slots, vocab: vocabulary }
    const inFlight = { maxStepsInFlight: 2, tensorParallel: 1 }
    this.info = { device: "checked", layout, ...sizes, maxRowsPerStep, maxTokens, ...inFlight }
    this.keep = keep
    this.token = token
    this.books = new Books(sizes.slabs, sizes.stateSlots, layout.segments.length)
    this.memory = new SlabMemory(sizes.slabs, 1)
  }

  putContent(id: number, { key, tokens, promptLength, drops, bitmaps }: CheckedContent): void {
    const { schedule } = this.limits
    const pQ32 = drops ? schedule.dropLayers.map(() => 0n) : null
    const rest = { sampling: greedy, returnLogits: false, promptLogprobs: -1 }
    const content: RequestContent = { tokens, promptLength, pQ32, bitmaps, ...rest }
    const fault = contentFault(content, this.info, vocabulary, schedule)
    if (fault !== null || this.books.contents.has(id))
      throw new Error(`put content ${id}: ${fault ?? "the id is taken"}`)
    this.books.contents.set(id, content)
    this.contentKeys.set(id, key)
  }

  forgetContent(id: number): void {
    this.books.contents.delete(id)
  }

  /** A step has failed: nothing is left but contents that no slot was opened for. */
  fail(): void {
    this.books.reset()
  }

  /** Contents that no slot was opened for. */
  get storedContents(): number {
    return this.books.contents.size
  }

  get openSlots(): number {
    return this.books.slots.size
  }

  /** Pages that an open slot holds of a table. */
  pagesHeld(slot: number, table: number): number {
    return this.books.slots.get(slot)!.tables[table]!.slabs.length / this.limits.layout.tables[table]!.slabsPerPage
  }

  get slots(): Iterable<number> {
    return this.books.slots.keys()
  }

  /** Slabs that nobody holds. */
  get free(): number {
    return this.books.memory.free
  }

  step(plan: StepPlan): StepResult {
    const { books, memory } = this
    const work = applyPlan(books, plan, this.limits)
    const { slots, decode } = books
    for (let i = 0; i < plan.opens.length; i += 2) this.opened(plan.opens.data[i]!, plan.opens.data[i + 1]!)
    for (const slab of work.erase) memory.erase(slab)
    for (const [source, target] of work.copies) memory.copy(source, target)
    const result = new StepResult()
    result.stepId = plan.stepId
    for (const id of decode) this.decodeRow(id, result)
    for (const item of work.items) this.item(item, result)
    for (const [item, id] of work.samples) {
      const source = slots.get(work.items[item]!.slot)!
      const slot = slots.get(id)!
      if (slot !== source) slot.adopt(source)
      this.sample(slot, id, result)
    }
    return result
  }

  private opened(slot: number, contentId: number): void {
    this.keys.set(slot, this.contentKeys.get(contentId)!)
    this.contentKeys.delete(contentId)
    const prefix = [0]
    for (const token of this.books.slots.get(slot)!.content.tokens) prefix.push(mix(prefix[prefix.length - 1]!, token))
    this.prefixes.set(slot, prefix)
  }

  private decodeRow(id: number, result: StepResult): void {
    const slot = this.books.slots.get(id)!
    this.prefixes.get(id)!.push(mix(this.prefixes.get(id)!.at(-1)!, slot.nextToken))
    for (let segment = 0; segment < this.limits.layout.segments.length; segment++) {
      const row = slot.prefillRows(segment) + slot.decoded
      this.pass(id, segment, row, row + 1, segment === 0 && slot.decodeCarryTable(this.limits.layout) >= 0)
    }
    slot.decoded++
    this.sample(slot, id, result)
  }

  private item(item: Item, result: StepResult): void {
    const slot = this.books.slots.get(item.slot)!
    const { segments } = this.limits.layout
    const last = segments.length - 1
    if (!slot.drops) {
      for (let s = 0; s <= last; s++) this.pass(item.slot, s, item.firstRow, item.firstRow + item.rows, false)
      return
    }
    for (let segment = item.firstSegment; segment <= item.lastSegment; segment++) {
      const first = segment === item.firstSegment ? item.firstRow : 0
      const end = segment === item.firstSegment ? first + item.rows : slot.prefillRows(segment)
      if (segment > 0) {
        const before = segments[segment - 1]!
        const rows = slot.prefillRows(segment - 1)
        this.read(item.slot, before.full, rows)
        this.read(item.slot, before.carry, rows)
      }
      this.pass(item.slot, segment, first, end, segment < last)
      slot.computed[segment] = end
      if (segment < last && end === slot.prefillRows(segment)) this.select(slot, item.slot, segment, result)
    }
  }

  private select(slot: SlotBooks, id: number, segment: number, result: StepResult): void {
    slot.selected = segment + 1
    const { carry } = this.limits.layout.segments[segment]!
    this.read(id, carry, slot.prefillRows(segment))
    const known = slot.kept[segment + 1]?.bitmap
    const bitmap =
      known ??
      this.keep.select(
        this.keys.get(id)!,
        slot.content.promptLength,
        segment,
        slot.shapeOf(segment, this.limits.schedule),
      )
    if (!known) slot.addSet(bitmap, this.limits.schedule)
    result.selections.push3(id, segment, known ? SelectionFlag.replayed : 0)
    result.selections.push(bitmap.length)
    result.selections.pushAll(Int32Array.from(bitmap))
  }

  /** Rows first … end − 1 of a segment: what they see is read, then they are written. */
  private pass(id: number, index: number, first: number, end: number, carries: boolean): void {
    const segment = this.limits.layout.segments[index]!
    const slot = this.books.slots.get(id)!
    for (const t of [segment.full, segment.sliding, carries ? segment.carry : -1]) {
      if (t < 0) continue
      this.read(id, t, first)
      this.write(id, t, first, end)
    }
    if (slot.stateSlot >= 0) this.books.states.absorbed[slot.stateSlot]![index]! += end - first
  }

  /** Every page held that has one of the first `rows` rows must be marked with this slot's own. */
  private read(id: number, t: number, rows: number): void {
    const { slabs, freedPages } = this.books.slots.get(id)!.tables[t]!
    const { slabsPerPage, kind } = this.limits.layout.tables[t]!
    const { pageSize } = this.limits.layout
    for (let page = freedPages; page * pageSize < rows; page++) {
      const slab = slabs[(page - freedPages) * slabsPerPage]!
      const [mark] = this.memory.read(slab, 0, 1)
      const expected = this.mark(id, t, page, Math.min(rows, (page + 1) * pageSize))
      // A shared page may be full where the reader needs a part of it; no such page is mapped.
      if (mark !== expected) {
        throw new Error(
          `slot ${id} reads ${rows} rows of table ${t} (${kind}): slab ${slab}, page ${page}, holds ${Number.isNaN(mark!) ? "nothing" : "other rows"}`,
        )
      }
    }
  }

  private write(id: number, t: number, first: number, end: number): void {
    const { slabs, freedPages } = this.books.slots.get(id)!.tables[t]!
    const { slabsPerPage } = this.limits.layout.tables[t]!
    const { pageSize } = this.limits.layout
    for (let page = Math.max(freedPages, Math.floor(first / pageSize)); page * pageSize < end; page++) {
      const from = (page - freedPages) * slabsPerPage
      const mark = this.mark(id, t, page, Math.min(end, (page + 1) * pageSize))
      for (let i = from; i < from + slabsPerPage; i++) this.memory.write(slabs[i]!, 0, Float64Array.of(mark))
    }
  }

  /** What stands for rows up to `end` of a page: all that they depend on. */
  private mark(id: number, t: number, page: number, end: number): number {
    const slot = this.books.slots.get(id)!
    const { segment } = this.limits.layout.tables[t]!
    const prefix = this.prefixes.get(id)!
    let mark = mix(mix(t, page), end)
    if (segment === 0 || !slot.drops) return mix(mark, prefix[end]!)
    for (let s = 1; s <= segment; s++) for (const word of slot.kept[s]!.bitmap!) mark = mix(mark, word)
    const generated = Math.max(0, end - slot.keptRows(segment))
    return mix(mark, prefix[slot.content.promptLength + generated]!)
  }

  private sample(slot: SlotBooks, id: number, result: StepResult): void {
    const { token, stop } = this.token(this.keys.get(id)!, slot.output.length)
    slot.output.push(token)
    slot.nextToken = token
    result.tokens.push3(id, token, stop ? TokenFlag.stop : 0)
  }
}

/** Tokens are below this. */
export const vocabulary = 1 << 20

const mix = (a: number, b: number): number => {
  let hash = Math.imul(a ^ Math.imul(b, 0x85ebca6b), 0xc2b2ae35)
  hash ^= hash >>> 15
  return Math.imul(hash, 0x27d4eb2f) ^ (hash >>> 13)
}
