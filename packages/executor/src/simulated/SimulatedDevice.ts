import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { lastSegment, type KvLayout } from "@uniprefill/model/KvLayout"
import { keptRows } from "@uniprefill/model/Selection"
import { StepLoad, windowsOf } from "@uniprefill/scheduler/StepLoad"
import { ItemField, sectionWidths, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { SelectionFlag, StepResult, TokenFlag } from "@uniprefill/scheduler/StepResult"
import type { KeepModel } from "./KeepModel.ts"

/** What a slot is opened with, as counts. */
export interface SimulatedContent {
  /** Names the request to the models of selections and tokens. */
  readonly key: number
  readonly promptLength: number
  /** Output tokens so far: rows that follow the kept rows of every set. */
  readonly outputs: number
  readonly drops: boolean
  /** Selects at a lower p than the schedule's; false where nothing is said. */
  readonly isLowered?: boolean
  readonly bitmaps: ReadonlyArray<Uint32Array>
  /** Output tokens after which the output ends; not looked at where tokens are made up. */
  readonly stopAt: number
}

interface Slot extends SimulatedContent {
  /** |S_i| for every set decided. */
  readonly kept: Array<number>
  /** Output tokens, those of decode steps since `joinedAt` not counted. */
  sampled: number
  decodeRows: number
  /** Place in the decode set, −1 outside it. */
  place: number
  /** The decode step before its first one, while it is in the set. */
  joinedAt: number
}

/** The token that output number `index` of the request with this `key` is, and whether it ends the output. */
export type TokenModel = (key: number, index: number) => { readonly token: number; readonly stop: boolean }

/** A result, and the decode set whose records its tokens begin with. */
export class CountedResult extends StepResult {
  membership = -1
}

/**
 * Carries out StepPlans as counts: what a real executor would return, and the work that it would have done. Checks nothing.
 *
 * Every token is 0 where no token model is given. Then, between two changes of the decode set nothing is touched per row: a result that was used for the same set before holds its
 * answer still, keys and outputs follow from the number of steps.
 */
export class SimulatedDevice {
  /** Work of the step prepared last, with the rows that its selections really kept. */
  readonly load: StepLoad
  /** Times that the step prepared last waits for the host to read a selection and go on. */
  readBacks = 0
  selections = 0
  private readonly schedule: DropSchedule
  private readonly keep: KeepModel
  private readonly token: TokenModel | null
  private readonly contents = new Map<number, SimulatedContent>()
  private readonly slots: Array<Slot | null>
  private readonly members: Array<number> = []
  /** `[slot, token, flags]` for each member, as a result holds them. */
  private records = new Int32Array(3 * 256)
  /** Counts the changes of the decode set. */
  private membership = 0
  private decodeSteps = 0
  /** Members whose output ends at a decode step, by its number. */
  private readonly stops = new Map<number, Array<number>>()
  private readonly spare: Array<CountedResult> = []
  private readonly last: number

  constructor(
    layout: KvLayout,
    schedule: DropSchedule,
    slots: number,
    keep: KeepModel,
    token: TokenModel | null = null,
  ) {
    this.schedule = schedule
    this.keep = keep
    this.token = token
    this.slots = new Array<Slot | null>(slots).fill(null)
    this.load = new StepLoad(layout.segments.length, windowsOf(layout))
    this.last = lastSegment(layout)
  }

  putContent(id: number, content: SimulatedContent): void {
    this.contents.set(id, content)
  }

  forgetContent(id: number): void {
    this.contents.delete(id)
  }

  /** A step has failed: no slot is open any more. */
  reset(): void {
    for (let slot = 0; slot < this.slots.length; slot++) if (this.slots[slot] !== null) this.close(slot)
  }

  /** What an open slot holds. */
  contentOf(slot: number): SimulatedContent {
    return this.open(slot)
  }

  get openSlots(): number {
    return this.slots.reduce((count, slot) => count + (slot === null ? 0 : 1), 0)
  }

  /** Carries a plan out. The result is the caller's until it is given to `release`. */
  prepare(plan: StepPlan): CountedResult {
    const result = this.spare.pop() ?? new CountedResult()
    result.clear(plan.stepId)
    this.load.clearPrefill()
    this.readBacks = 0
    for (let i = 0; i < plan.leaves.length; i++) this.leave(plan.leaves.data[i]!)
    for (let i = 0; i < plan.closes.length; i++) this.close(plan.closes.data[i]!)
    for (let i = 0; i < plan.opens.length; i += 2) this.openSlot(plan.opens.data[i]!, plan.opens.data[i + 1]!)
    for (let i = 0; i < plan.joins.length; i += 2) this.join(plan.joins.data[i]!)
    this.decode(result)
    for (let i = 0; i < plan.items.length; i += sectionWidths.items) this.advance(plan.items.data, i, result)
    for (let i = 0; i < plan.samples.length; i += 2) {
      const source = plan.items.data[plan.samples.data[i]! * sectionWidths.items + ItemField.slot]!
      this.sampleFirst(source, plan.samples.data[i + 1]!, result)
    }
    return result
  }

  release(result: CountedResult): void {
    this.spare.push(result)
  }

  // ----------------------------------------------------------------------------------------------------- slots

  private openSlot(slot: number, contentId: number): void {
    const content = this.contents.get(contentId)
    if (content === undefined) throw new Error(`content ${contentId} is not there`)
    this.contents.delete(contentId)
    const { key, promptLength, outputs, drops, isLowered = false, bitmaps, stopAt } = content
    this.slots[slot] = {
      key,
      promptLength,
      outputs,
      drops,
      isLowered,
      bitmaps,
      stopAt,
      kept: [promptLength],
      sampled: outputs,
      decodeRows: 0,
      place: -1,
      joinedAt: 0,
    }
  }

  private close(slot: number): void {
    this.leave(slot)
    this.slots[slot] = null
  }

  // ---------------------------------------------------------------------------------------------------- decode

  private join(slotId: number): void {
    const slot = this.open(slotId)
    const { load } = this
    this.membership++
    slot.place = this.members.length
    slot.joinedAt = this.decodeSteps
    this.members.push(slotId)
    if (this.members.length * 3 > this.records.length) {
      const larger = new Int32Array(this.records.length * 2)
      larger.set(this.records)
      this.records = larger
    }
    this.records[slot.place * 3] = slotId
    this.records[slot.place * 3 + 1] = 0
    this.records[slot.place * 3 + 2] = 0
    load.decodeRows++
    for (let s = 0; s <= this.last; s++) load.joinDecode(s, this.rowsOf(slot, s) + slot.decodeRows)
    const stopStep = this.decodeSteps + slot.stopAt - slot.sampled
    const others = this.stops.get(stopStep)
    if (others === undefined) this.stops.set(stopStep, [slotId])
    else others.push(slotId)
  }

  private leave(slotId: number): void {
    const slot = this.open(slotId)
    if (slot.place < 0) return
    const { load, members, records } = this
    this.membership++
    const steps = this.decodeSteps - slot.joinedAt
    slot.sampled += steps
    slot.decodeRows += steps
    const moved = members.pop()!
    if (moved !== slotId) {
      members[slot.place] = moved
      records[slot.place * 3] = moved
      this.open(moved).place = slot.place
    }
    slot.place = -1
    load.decodeRows--
    for (let s = 0; s <= this.last; s++) load.leaveDecode(s, this.rowsOf(slot, s) + slot.decodeRows)
  }

  private decode(result: CountedResult): void {
    const { load, members, records } = this
    const count = members.length
    if (count === 0) return
    this.decodeSteps++
    load.advanceDecodes(count)
    const { tokens } = result
    if (result.membership !== this.membership) {
      if (tokens.data.length < 3 * count) tokens.data = new Int32Array(records.length)
      for (let i = 0; i < 3 * count; i++) tokens.data[i] = records[i]!
      result.membership = this.membership
    }
    tokens.length = 3 * count
    if (this.token !== null) return this.speak(this.token, result)
    const ending = this.stops.get(this.decodeSteps)
    if (ending === undefined) return
    this.stops.delete(this.decodeSteps)
    result.membership = -1
    for (const slotId of ending) {
      const slot = this.slots[slotId]
      if (slot === null || slot === undefined || slot.place < 0) continue
      if (slot.joinedAt + slot.stopAt - slot.sampled !== this.decodeSteps) continue
      tokens.data[slot.place * 3 + 2] = TokenFlag.stop
    }
  }

  /** Gives every member the token that the model says, in place of a 0. */
  private speak(token: TokenModel, { tokens }: StepResult): void {
    for (let i = 0; i < tokens.length; i += 3) {
      const slot = this.open(tokens.data[i]!)
      const said = token(slot.key, slot.sampled + this.decodeSteps - slot.joinedAt - 1)
      tokens.data[i + 1] = said.token
      tokens.data[i + 2] = said.stop ? TokenFlag.stop : 0
    }
  }

  private sampleFirst(sourceId: number, slotId: number, result: StepResult): void {
    const slot = this.open(slotId)
    if (sourceId !== slotId) slot.kept.splice(0, slot.kept.length, ...this.open(sourceId).kept)
    const index = slot.sampled++
    const { token, stop } = this.token?.(slot.key, index) ?? { token: 0, stop: index + 1 === slot.stopAt }
    result.tokens.push3(slotId, token, stop ? TokenFlag.stop : 0)
  }

  // --------------------------------------------------------------------------------------------------- prefill

  private advance(items: Int32Array, at: number, result: StepResult): void {
    const slotId = items[at + ItemField.slot]!
    const slot = this.open(slotId)
    const { load, last } = this
    const firstRow = items[at + ItemField.firstRow]!
    const rows = items[at + ItemField.rows]!
    const firstSegment = items[at + ItemField.firstSegment]!
    const lastSegmentOfItem = items[at + ItemField.lastSegment]!
    load.items++
    if (!slot.drops) {
      const all = slot.promptLength + slot.outputs
      for (let s = 0; s <= last; s++) load.addRows(1, s, firstRow, rows, all, all)
      return
    }
    this.addRows(slot, firstSegment, firstRow, rows)
    if (firstRow + rows < this.rowsOf(slot, firstSegment)) return
    for (let s = firstSegment; s <= lastSegmentOfItem; s++) {
      if (s > firstSegment) this.addRows(slot, s, 0, this.rowsOf(slot, s))
      if (s < last) this.select(slotId, slot, s, result)
    }
    this.readBacks = Math.max(this.readBacks, lastSegmentOfItem - firstSegment)
  }

  private addRows(slot: Slot, segment: number, firstRow: number, rows: number): void {
    const before = segment === 0 ? 0 : this.rowsOf(slot, segment - 1)
    this.load.addRows(1, segment, firstRow, rows, this.rowsOf(slot, segment), before)
  }

  private select(slotId: number, slot: Slot, segment: number, result: StepResult): void {
    const { block, sink, lastQ } = this.schedule
    const shape = { rows: slot.kept[segment]!, block, sink, lastQ }
    const replayed = slot.bitmaps[segment]
    const bitmap = replayed ?? this.keep.select(slot.key, slot.promptLength, segment, shape, slot.isLowered === true)
    this.load.addSelection(1, segment, shape.rows)
    this.selections++
    slot.kept[segment + 1] = keptRows(bitmap, shape)
    result.selections.push3(slotId, segment, replayed === undefined ? 0 : SelectionFlag.replayed)
    result.selections.push(bitmap.length)
    result.selections.pushAll(bitmap)
  }

  /** Rows of a segment's set and the replayed output. A prompt that does not drop keeps everything. */
  private rowsOf(slot: Slot, segment: number): number {
    return slot.kept[Math.min(segment, slot.kept.length - 1)]! + slot.outputs
  }

  private open(slotId: number): Slot {
    const slot = this.slots[slotId]
    if (slot === null || slot === undefined) throw new Error(`slot ${slotId} is not open`)
    return slot
  }
}
