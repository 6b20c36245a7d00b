import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { lastSegment, type KvLayout } from "@uniprefill/model/KvLayout"
import { keptRows } from "@uniprefill/model/Selection"
import { StepLoad, windowsOf } from "@uniprefill/scheduler/StepLoad"
import { ItemField, sectionWidths, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { SelectionFlag, StepResult, TokenFlag } from "@uniprefill/scheduler/StepResult"
import type { KeepModel } from "./KeepModel.ts"

export interface SimulatedOptions {
  readonly layout: KvLayout
  readonly schedule: DropSchedule
  readonly keep: KeepModel
  /** The token that output number `index` of the request with this `key` is, and whether it ends the output. */
  readonly token: (key: number, index: number) => { readonly token: number; readonly stop: boolean }
}

export interface SimulatedContent {
  readonly slot: number
  /** Names the request to the keep and token models. */
  readonly key: number
  readonly promptLength: number
  /** Output tokens that the slot is opened with. */
  readonly outputs: number
  readonly drops: boolean
  readonly bitmaps: ReadonlyArray<Uint32Array>
}

interface Slot {
  readonly content: SimulatedContent
  readonly kept: Array<number>
  readonly bitmaps: Array<Uint32Array>
  segment: number
  computed: number
  outputs: number
  decodeRows: number
  /** Slabs of the hit's table mapped, and its pages left out before them. */
  mapped: number
  leftOut: number
  /** Whether another slot's prefill was adopted: pages mapped bring no rows any more. */
  adopted: boolean
}

/**
 * Carries out StepPlans without a model: keeps count of rows, makes selections up and samples made-up tokens. What it
 * returns has the form and order of a real step's result.
 */
export class SimulatedRunner {
  /** Work of the last step, with the rows that its selections kept. */
  readonly load: StepLoad
  private readonly options: SimulatedOptions
  private readonly slots = new Map<number, Slot>()
  private readonly decodeSet: Array<number> = []
  private readonly result = new StepResult()

  constructor(options: SimulatedOptions) {
    this.options = options
    this.load = new StepLoad(options.layout.segments.length, windowsOf(options.layout))
  }

  openSlot(content: SimulatedContent): void {
    if (this.slots.has(content.slot)) throw new Error(`slot ${content.slot} is open`)
    this.slots.set(content.slot, {
      content,
      kept: [content.promptLength],
      bitmaps: [...content.bitmaps],
      segment: 0,
      computed: 0,
      outputs: content.outputs,
      decodeRows: 0,
      mapped: 0,
      leftOut: 0,
      adopted: false,
    })
  }

  closeSlot(slot: number): void {
    if (!this.slots.delete(slot)) throw new Error(`slot ${slot} is not open`)
    this.leave(slot)
  }

  get openSlots(): number {
    return this.slots.size
  }

  /** The result is the runner's own, valid until the next step. */
  step(plan: StepPlan): StepResult {
    const { result, load } = this
    result.clear(plan.stepId)
    load.clearPrefill()
    load.clearDecodes()
    for (let i = 0; i < plan.leaves.length; i++) this.leave(plan.leaves.data[i]!)
    for (let i = 0; i < plan.windowFrees.length; i += sectionWidths.windowFrees) {
      this.leaveOut(plan.windowFrees.data[i]!, plan.windowFrees.data[i + 1]!, plan.windowFrees.data[i + 2]!)
    }
    for (let i = 0; i < plan.maps.length; i += sectionWidths.maps) this.map(plan.maps.data[i]!, plan.maps.data[i + 1]!)
    for (let i = 0; i < plan.joins.length; i += 2) this.decodeSet.push(plan.joins.data[i]!)
    load.decodeRows = this.decodeSet.length
    for (const slot of this.decodeSet) this.decode(slot)
    for (let i = 0; i < plan.items.length; i += sectionWidths.items) this.advance(plan.items.data.subarray(i, i + 5))
    for (let i = 0; i < plan.samples.length; i += sectionWidths.samples) {
      const source = plan.items.data[plan.samples.data[i]! * sectionWidths.items + ItemField.slot]!
      const target = plan.samples.data[i + 1]!
      if (target !== source) this.adopt(this.open(source), this.open(target))
      this.sample(target)
    }
    return result
  }

  /** The table of segment 0 whose pages say how many rows a hit brings: one that holds all of them, where there is one. */
  private get hitTable(): number {
    const { full, sliding } = this.options.layout.segments[0]!
    return full >= 0 ? full : sliding
  }

  /** Pages before the window of a hit. */
  private leaveOut(slotId: number, table: number, pages: number): void {
    const slot = this.open(slotId)
    if (table !== this.hitTable || slot.adopted || slot.segment > 0 || slot.computed > 0) return
    slot.leftOut = pages
    this.countHit(slot)
  }

  private map(slotId: number, table: number): void {
    const slot = this.open(slotId)
    if (table !== this.hitTable || slot.adopted) return
    slot.mapped++
    this.countHit(slot)
  }

  /** Rows of pages that others have computed count as computed. */
  private countHit(slot: Slot): void {
    const { tables, pageSize } = this.options.layout
    slot.computed = (slot.leftOut + Math.floor(slot.mapped / tables[this.hitTable]!.slabsPerPage)) * pageSize
  }

  /** A second sequence from the same prompt goes on from what the first has computed. */
  private adopt(source: Slot, target: Slot): void {
    target.kept.splice(0, target.kept.length, ...source.kept)
    target.bitmaps.splice(0, target.bitmaps.length, ...source.bitmaps)
    target.segment = source.segment
    target.computed = source.computed
    target.adopted = true
  }

  private advance(item: Int32Array): void {
    const slot = this.open(item[ItemField.slot]!)
    const { layout } = this.options
    const first = item[ItemField.firstSegment]!
    const last = item[ItemField.lastSegment]!
    if (slot.content.drops && first !== slot.segment)
      throw new Error(`item starts at segment ${first}, not ${slot.segment}`)
    if (item[ItemField.firstRow] !== slot.computed)
      throw new Error(`item starts at row ${item[1]}, not ${slot.computed}`)
    const rows = item[ItemField.rows]!
    this.load.items++
    if (slot.content.drops) this.count(slot, first, slot.computed, rows)
    else for (let segment = first; segment <= last; segment++) this.count(slot, segment, slot.computed, rows)
    slot.computed += rows
    if (!slot.content.drops || slot.computed < this.rowsOf(slot, first)) return
    for (let segment = first; segment <= last; segment++) {
      if (segment > first) this.count(slot, segment, 0, this.rowsOf(slot, segment))
      if (segment < lastSegment(layout)) this.select(slot, segment)
      slot.segment = segment + 1
      slot.computed = 0
    }
  }

  /** Rows of a segment's set and of the output that the slot was opened with; where nothing is dropped, of the prompt. */
  private rowsOf(slot: Slot, segment: number): number {
    return slot.kept[Math.min(segment, slot.kept.length - 1)]! + slot.content.outputs
  }

  private count(slot: Slot, segment: number, firstRow: number, rows: number): void {
    const before = segment === 0 ? 0 : this.rowsOf(slot, segment - 1)
    this.load.addRows(1, segment, firstRow, rows, this.rowsOf(slot, segment), before)
  }

  private decode(slotId: number): void {
    const slot = this.open(slotId)
    slot.decodeRows++
    const { load } = this
    for (let s = 0; s < load.decodeKeys.length; s++) load.addDecodes(s, 1, this.rowsOf(slot, s) + slot.decodeRows)
    this.sample(slotId)
  }

  private select(slot: Slot, segment: number): void {
    const shape = { rows: slot.kept[segment]!, ...this.options.schedule }
    this.load.scoredRows[segment]! += shape.rows
    const replayed = slot.bitmaps[segment]
    const bitmap = replayed ?? this.options.keep.select(slot.content.key, segment, shape)
    if (replayed === undefined) slot.bitmaps.push(bitmap)
    slot.kept.push(keptRows(bitmap, shape))
    const flags = replayed === undefined ? 0 : SelectionFlag.replayed
    this.result.selections.push3(slot.content.slot, segment, flags)
    this.result.selections.push(bitmap.length)
    this.result.selections.pushAll(bitmap)
  }

  private sample(slotId: number): void {
    const slot = this.open(slotId)
    const { token, stop } = this.options.token(slot.content.key, slot.outputs++)
    this.result.tokens.push3(slotId, token, stop ? TokenFlag.stop : 0)
  }

  private open(slot: number): Slot {
    const open = this.slots.get(slot)
    if (open === undefined) throw new Error(`slot ${slot} is not open`)
    return open
  }

  private leave(slot: number): void {
    const at = this.decodeSet.indexOf(slot)
    if (at < 0) return
    const last = this.decodeSet.pop()!
    if (last !== slot) this.decodeSet[at] = last
  }
}
