import type { ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { keptRows } from "@uniprefill/model/Selection"
import { StepPlan, StateOperation } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import type { ContentForSlot } from "./PlanBench.ts"
import { pagesFor } from "@uniprefill/units/Units"

/** What one request does in a step: `rows` of its current segment; when that completes it, on through `runOn` more. */
export interface Piece {
  readonly slot: number
  readonly rows: number
  readonly runOn: number
}

interface Progress {
  readonly content: ContentForSlot
  readonly tables: Array<{ slabs: Array<number>; freed: number }>
  readonly kept: Array<number>
  segment: number
  computed: number
  decoded: number
  /** `adopted`: sampled from the prefill of another slot, whose pages it does not have yet. */
  phase: "prefill" | "sampled" | "adopted" | "decode"
  /** The slot whose prefill it goes on from, −1 when it has its own. */
  readonly source: number
}

/** The first pages of a slot, held by the prefix cache: what a later slot begins with. */
export interface CachedPrefix {
  readonly pages: number
  /** By table: the slabs that are left of those pages, and how many pages in front of them are not. */
  readonly tables: ReadonlyArray<{ readonly slabs: ReadonlyArray<number>; readonly freed: number }>
  /** Snapshot of the recurrent state behind them, −1 in a model without. */
  readonly stateSlot: number
}

/** Writes plans by hand, one step at a time, with exactly the pages that the rows need: a scheduler without any policy. */
export class PlanWriter {
  readonly requests = new Map<number, Progress>()
  private readonly runner: ReferenceRunner
  private readonly schedule: DropSchedule
  private readonly free: Array<number>
  /** Tables that hold a slab, and the cache. */
  private readonly holders: Int32Array
  private readonly cacheDecoded: boolean
  private contents = 0
  /** The plan that the next step carries out. */
  private readonly plan = new StepPlan()

  /** With `cacheDecoded`, slots that drop keep pages of carry 0 for the rows they decode. */
  constructor(runner: ReferenceRunner, schedule: DropSchedule, cacheDecoded = false) {
    this.runner = runner
    this.schedule = schedule
    this.cacheDecoded = cacheDecoded
    this.free = Array.from({ length: runner.info.slabs }, (_, i) => i)
    this.holders = new Int32Array(runner.info.slabs)
    this.plan.clear(1)
  }

  /** The next step's plan opens a slot; with a `source`, one that goes on from the prefill of that slot. */
  open(content: ContentForSlot, source = -1): void {
    this.runner.putContent(++this.contents, content)
    this.plan.opens.push2(content.slot, this.contents)
    const tables = this.runner.info.layout.tables.map(() => ({ slabs: [], freed: 0 }))
    const progress: Progress = {
      content,
      tables,
      kept: [content.promptLength],
      segment: 0,
      computed: 0,
      decoded: 0,
      phase: "prefill",
      source,
    }
    for (const [i, bitmap] of content.bitmaps.entries()) progress.kept.push(this.keptAfter(progress, i, bitmap))
    this.requests.set(content.slot, progress)
  }

  close(slot: number): void {
    if (this.requests.get(slot)!.phase === "decode") this.plan.leaves.push(slot)
    this.plan.closes.push(slot)
    for (const { slabs } of this.requests.get(slot)!.tables) for (const slab of slabs) this.release(slab)
    this.requests.delete(slot)
  }

  /** The next step's plan gives the cache the first `pages` pages of a slot that has computed just their rows. */
  retain(slot: number, pages: number): CachedPrefix {
    const request = this.requests.get(slot)!
    const drops = request.content.pQ32 !== null
    const hasState = this.layout.stateSlotBytes > 0
    const stateSlot = hasState ? this.runner.info.stateSlots - 1 : -1
    const tables = this.layout.tables.map(({ kind, segment, slabsPerPage }, t) => {
      if (drops ? segment > 0 : kind === "carry") return { slabs: [], freed: 0 }
      this.slide(slot, t, pages * this.layout.pageSize)
      const { slabs, freed } = request.tables[t]!
      return { slabs: slabs.slice(0, (pages - freed) * slabsPerPage), freed }
    })
    for (const slab of tables.flatMap(({ slabs }) => slabs)) {
      this.plan.retains.push(slab)
      this.holders[slab]!++
    }
    if (hasState) this.plan.states.push3(slot, StateOperation.snapshot, stateSlot)
    return { pages, tables, stateSlot }
  }

  /** The next step's plan begins a slot with cached pages. */
  hit(slot: number, prefix: CachedPrefix): void {
    const request = this.requests.get(slot)!
    request.computed = prefix.pages * this.layout.pageSize
    for (const [t, { slabs, freed }] of prefix.tables.entries()) {
      if (freed > 0) this.plan.windowFrees.push3(slot, t, freed)
      request.tables[t]!.freed = freed
      for (const slab of slabs) this.map(slot, t, slab)
    }
    if (prefix.stateSlot < 0) return
    this.plan.states.push3(slot, StateOperation.zero, slot)
    this.plan.states.push3(slot, StateOperation.restore, prefix.stateSlot)
  }

  /** The next step's plan gives up what the cache holds. */
  drop({ tables }: CachedPrefix): void {
    for (const slab of tables.flatMap(({ slabs }) => slabs)) {
      this.plan.evictions.push(slab)
      this.release(slab)
    }
  }

  /** Rows that the request's current segment still lacks. */
  remaining(slot: number): number {
    const request = this.requests.get(slot)!
    return this.rowsOf(request, request.segment) - request.computed
  }

  /** One step: these pieces, and a decode row of every request that has its first token. */
  step(pieces: ReadonlyArray<Piece>): StepResult {
    const { plan } = this
    const decoding = [...this.requests].filter(([, { phase }]) => phase !== "prefill")
    for (const [slot, request] of decoding) {
      for (const t of this.decodeTables(request)) this.slide(slot, t, this.nextRow(request, t))
    }
    for (const [slot, { phase, source }] of decoding) if (phase === "adopted") this.share(source, slot)
    for (const [slot, request] of decoding) {
      if (request.phase !== "decode") plan.joins.push2(slot, -1)
      request.phase = "decode"
      for (const t of this.decodeTables(request)) this.grow(slot, t, this.nextRow(request, t) + 1)
      request.decoded++
    }
    for (const piece of pieces) this.item(piece)
    const result = this.runner.step(plan)
    plan.clear(plan.stepId + 1)
    for (const { slot, rows } of pieces) this.requests.get(slot)!.computed += rows
    this.applySelections(result)
    for (const { slot, runOn } of pieces) this.finish(slot, runOn)
    for (const request of this.requests.values()) {
      const source = this.requests.get(request.source)
      if (request.phase !== "prefill" || source?.phase !== "sampled") continue
      request.kept.splice(0, request.kept.length, ...source.kept)
      request.phase = "adopted"
    }
    return result
  }

  private get layout() {
    return this.runner.info.layout
  }

  private get last(): number {
    return this.layout.segments.length - 1
  }

  /** Tables that a decode row is written to. */
  private decodeTables({ content }: Progress): Array<number> {
    const carries = this.cacheDecoded && content.pQ32 !== null
    return this.layout.tables.flatMap(({ kind, segment }, t) =>
      kind !== "carry" || (carries && segment === 0) ? [t] : [],
    )
  }

  private nextRow(request: Progress, t: number): number {
    return this.rowsOf(request, this.layout.tables[t]!.segment) + request.decoded
  }

  /** Full pages by reference, the last one as a copy when it is not full, and the recurrent state. */
  private share(source: number, target: number): void {
    const { plan } = this
    const from = this.requests.get(source)!
    const to = this.requests.get(target)!
    for (const t of this.decodeTables(to)) {
      const { slabs, freed } = from.tables[t]!
      const rows = this.rowsOf(from, this.layout.tables[t]!.segment)
      const full = (Math.floor(rows / this.layout.pageSize) - freed) * this.layout.tables[t]!.slabsPerPage
      if (freed > 0) plan.windowFrees.push3(target, t, freed)
      to.tables[t]!.freed = freed
      for (const slab of slabs.slice(0, full)) this.map(target, t, slab)
      this.grow(target, t, rows)
      for (const [i, slab] of to.tables[t]!.slabs.slice(full).entries()) plan.copies.push2(slabs[full + i]!, slab)
    }
    if (this.layout.stateSlotBytes === 0) return
    plan.states.push3(target, StateOperation.zero, target)
    plan.states.push3(target, StateOperation.restore, source)
  }

  private item({ slot, rows, runOn }: Piece): void {
    const { plan } = this
    const request = this.requests.get(slot)!
    const drops = request.content.pQ32 !== null
    const completes = request.computed + rows === this.rowsOf(request, request.segment)
    const to = drops ? Math.min(this.last, request.segment + (completes ? runOn : 0)) : this.last
    if (this.layout.stateSlotBytes > 0 && request.segment === 0 && request.computed === 0) {
      plan.states.push3(slot, StateOperation.zero, slot)
    }
    for (let segment = request.segment; segment <= to; segment++) {
      const whole = !drops || segment === request.segment
      const first = whole ? request.computed : 0
      const count = whole ? rows : this.rowsOf(request, segment)
      for (const [t, table] of this.layout.tables.entries()) {
        if (table.segment !== segment || (table.kind === "carry" && !drops)) continue
        this.slide(slot, t, first)
        this.grow(slot, t, first + count)
      }
    }
    if (completes && to === this.last) {
      const sampled = [...this.requests].filter(([id, { source }]) => id === slot || source === slot)
      for (const [id] of sampled) plan.samples.push2(plan.itemCount, id)
    }
    plan.items.pushAll([slot, request.computed, rows, request.segment, to])
  }

  /** A sliding table gives back what rows from `first` on cannot see. */
  private slide(slot: number, t: number, first: number): void {
    const { pageSize, tables } = this.layout
    const { kind, window, slabsPerPage } = tables[t]!
    const table = this.requests.get(slot)!.tables[t]!
    const held = table.slabs.length / slabsPerPage
    const frees = Math.min(held, Math.floor(Math.max(0, first - window + 1) / pageSize) - table.freed)
    if (kind !== "sliding" || frees <= 0) return
    for (const slab of table.slabs.splice(0, frees * slabsPerPage)) this.release(slab)
    table.freed += frees
    this.plan.windowFrees.push3(slot, t, frees)
  }

  /** Pages for rows 0 … rows − 1, but for those given back. */
  private grow(slot: number, t: number, rows: number): void {
    const { pageSize, tables } = this.layout
    const table = this.requests.get(slot)!.tables[t]!
    const need = (pagesFor(rows, pageSize) - table.freed) * tables[t]!.slabsPerPage
    while (table.slabs.length < need) {
      const slab = this.free.pop()
      if (slab === undefined) throw new Error("the test's pool of slabs is too small")
      table.slabs.push(slab)
      this.holders[slab] = 1
      this.plan.grants.push3(slot, t, slab)
    }
  }

  private map(slot: number, t: number, slab: number): void {
    this.requests.get(slot)!.tables[t]!.slabs.push(slab)
    this.holders[slab]!++
    this.plan.maps.push3(slot, t, slab)
  }

  private release(slab: number): void {
    if (--this.holders[slab]! === 0) this.free.push(slab)
  }

  private applySelections({ selections }: StepResult): void {
    const { data, length } = selections
    for (let at = 0; at < length; at += 4 + data[at + 3]!) {
      const request = this.requests.get(data[at]!)!
      const bitmap = Uint32Array.from(data.subarray(at + 4, at + 4 + data[at + 3]!))
      if (request.kept.length === data[at + 1]! + 1) request.kept.push(this.keptAfter(request, data[at + 1]!, bitmap))
    }
  }

  private finish(slot: number, runOn: number): void {
    const request = this.requests.get(slot)!
    if (request.content.pQ32 === null) {
      if (request.computed === this.rowsOf(request, 0)) request.phase = "sampled"
      return
    }
    let left = runOn
    while (request.computed === this.rowsOf(request, request.segment)) {
      if (request.segment === this.last) {
        request.phase = "sampled"
        return
      }
      request.segment++
      request.computed = 0
      if (left-- > 0) request.computed = this.rowsOf(request, request.segment)
      else break
    }
  }

  private keptAfter(request: Progress, segment: number, bitmap: Uint32Array): number {
    const { block, sink, lastQ } = this.schedule
    return keptRows(bitmap, { rows: request.kept[segment]!, block, sink, lastQ })
  }

  private rowsOf({ kept, content }: Progress, segment: number): number {
    const prompt = content.pQ32 === null ? kept[0]! : kept[Math.min(segment, kept.length - 1)]!
    return prompt + content.tokens.length - content.promptLength
  }
}

/** Selections of a result as [slot, segment, flags, bitmap]. */
export const selectionsOf = ({
  selections: { data, length },
}: StepResult): Array<[number, number, number, Uint32Array]> => {
  const list: Array<[number, number, number, Uint32Array]> = []
  for (let at = 0; at < length; at += 4 + data[at + 3]!) {
    const words = data.subarray(at + 4, at + 4 + data[at + 3]!)
    list.push([data[at]!, data[at + 1]!, data[at + 2]!, Uint32Array.from(words)])
  }
  return list
}

/** Logits of a result by slot, as the f32 bits that travel. */
export const logitsOf = ({ logits: { data, length } }: StepResult): Map<number, Int32Array> => {
  const rows = new Map<number, Int32Array>()
  for (let at = 0; at < length; at += 2 + data[at + 1]!) rows.set(data[at]!, data.slice(at + 2, at + 2 + data[at + 1]!))
  return rows
}
