import type { SlotContent } from "@uniprefill/executor/Executor"
import type { NaiveRunner } from "@uniprefill/executor/NaiveRunner"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { keptRows } from "@uniprefill/model/Selection"
import { StepPlan, StateOperation } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { pagesFor } from "@uniprefill/units/Units"

/** What one request does in a step: `rows` of its current segment; when that completes it, on through `runOn` more. */
export interface Piece {
  readonly slot: number
  readonly rows: number
  readonly runOn: number
}

interface Progress {
  readonly content: SlotContent
  readonly tables: Array<{ slabs: Array<number>; freed: number }>
  readonly kept: Array<number>
  segment: number
  computed: number
  decoded: number
  phase: "prefill" | "sampled" | "decode"
}

/** Writes plans by hand, one step at a time, with exactly the pages that the rows need: a scheduler without any policy. */
export class PlanWriter {
  readonly requests = new Map<number, Progress>()
  private readonly runner: NaiveRunner
  private readonly schedule: DropSchedule
  private readonly free: Array<number>
  private stepId = 0

  constructor(runner: NaiveRunner, schedule: DropSchedule) {
    this.runner = runner
    this.schedule = schedule
    this.free = Array.from({ length: runner.info.slabs }, (_, i) => i)
  }

  open(content: SlotContent): void {
    this.runner.openSlot(content)
    const tables = this.runner.info.layout.tables.map(() => ({ slabs: [], freed: 0 }))
    const progress: Progress = {
      content,
      tables,
      kept: [content.promptLength],
      segment: 0,
      computed: 0,
      decoded: 0,
      phase: "prefill",
    }
    for (const [i, bitmap] of content.bitmaps.entries()) progress.kept.push(this.keptAfter(progress, i, bitmap))
    this.requests.set(content.slot, progress)
  }

  close(slot: number): void {
    this.runner.closeSlot(slot)
    for (const { slabs } of this.requests.get(slot)!.tables) this.free.push(...slabs)
    this.requests.delete(slot)
  }

  /** Rows that the request's current segment still lacks. */
  remaining(slot: number): number {
    const request = this.requests.get(slot)!
    return this.rowsOf(request, request.segment) - request.computed
  }

  /** One step: these pieces, and a decode row of every request that has its first token. */
  step(pieces: ReadonlyArray<Piece>): StepResult {
    const plan = new StepPlan()
    plan.stepId = ++this.stepId
    for (const [slot, request] of this.requests) {
      if (request.phase === "prefill") continue
      if (request.phase === "sampled") plan.joins.push2(slot, -1)
      request.phase = "decode"
      for (const [t, { kind, segment }] of this.layout.tables.entries()) {
        if (kind !== "carry") this.grow(plan, slot, t, this.rowsOf(request, segment) + request.decoded, 1)
      }
      request.decoded++
    }
    for (const piece of pieces) this.item(plan, piece)
    const result = this.runner.step(plan)
    for (const { slot, rows } of pieces) this.requests.get(slot)!.computed += rows
    this.applySelections(result)
    for (const { slot, runOn } of pieces) this.finish(slot, runOn)
    return result
  }

  private get layout() {
    return this.runner.info.layout
  }

  private get last(): number {
    return this.layout.segments.length - 1
  }

  private item(plan: StepPlan, { slot, rows, runOn }: Piece): void {
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
        if (table.segment === segment && (table.kind !== "carry" || drops)) this.grow(plan, slot, t, first, count)
      }
    }
    if (completes && to === this.last) plan.samples.push2(plan.itemCount, slot)
    plan.items.pushAll([slot, request.computed, rows, request.segment, to])
  }

  /** Pages for rows first … first + count − 1; a sliding table first gives back what they cannot see. */
  private grow(plan: StepPlan, slot: number, t: number, first: number, count: number): void {
    const { pageSize, tables } = this.layout
    const { kind, window, slabsPerPage } = tables[t]!
    const table = this.requests.get(slot)!.tables[t]!
    if (kind === "sliding") {
      const held = table.slabs.length / slabsPerPage
      const frees = Math.min(held, Math.floor(Math.max(0, first - window + 1) / pageSize) - table.freed)
      if (frees > 0) {
        this.free.push(...table.slabs.splice(0, frees * slabsPerPage))
        table.freed += frees
        plan.windowFrees.push3(slot, t, frees)
      }
    }
    const need = (pagesFor(first + count, pageSize) - table.freed) * slabsPerPage
    while (table.slabs.length < need) {
      const slab = this.free.pop()
      if (slab === undefined) throw new Error("the test's pool of slabs is too small")
      table.slabs.push(slab)
      plan.grants.push3(slot, t, slab)
    }
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
