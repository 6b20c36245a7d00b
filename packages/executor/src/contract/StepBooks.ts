import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import type { Books, Item, Work } from "./PlanBooks.ts"

/**
 * Brings the books of an executor that computes nothing to where a computed step leaves them: rows counted, sets added,
 * states absorbed, tokens sampled. `result` is what it made up for the plan that `work` came from.
 */
export const followStep = (
  books: Books,
  work: Work,
  result: StepResult,
  layout: KvLayout,
  schedule: DropSchedule,
): void => {
  const { slots } = books
  const absorb = (slotId: number, segment: number, rows: number) => {
    const { stateSlot } = slots.get(slotId)!
    if (stateSlot >= 0) books.states.absorbed[stateSlot]![segment]! += rows
  }
  for (const id of books.decode) {
    slots.get(id)!.decoded++
    for (let segment = 0; segment < layout.segments.length; segment++) absorb(id, segment, 1)
  }
  const bitmaps = selectionsOf(result)
  for (const item of work.items) followItem(books, item, bitmaps, layout, schedule, absorb)
  for (const [item, id] of work.samples) {
    const source = slots.get(work.items[item]!.slot)!
    if (slots.get(id) !== source) slots.get(id)!.adopt(source)
  }
  const { data, length } = result.tokens
  for (let i = 0; i < length; i += 3) {
    const slot = slots.get(data[i]!)!
    slot.output.push(data[i + 1]!)
    slot.nextToken = data[i + 1]!
  }
}

const followItem = (
  books: Books,
  item: Item,
  bitmaps: ReadonlyMap<string, Uint32Array>,
  layout: KvLayout,
  schedule: DropSchedule,
  absorb: (slotId: number, segment: number, rows: number) => void,
): void => {
  const slot = books.slots.get(item.slot)!
  const last = layout.segments.length - 1
  for (let segment = item.firstSegment; segment <= item.lastSegment; segment++) {
    const isFirst = segment === item.firstSegment || !slot.drops
    const rows = isFirst ? item.rows : slot.prefillRows(segment)
    absorb(item.slot, segment, rows)
    if (!slot.drops) continue
    slot.computed[segment] = isFirst ? item.firstRow + rows : rows
    if (segment === last || slot.computed[segment]! < slot.prefillRows(segment)) continue
    slot.selected = segment + 1
    if (slot.kept.length === segment + 1) slot.addSet(bitmaps.get(`${item.slot} ${segment}`)!, schedule)
  }
}

const selectionsOf = ({ selections: { data, length } }: StepResult): ReadonlyMap<string, Uint32Array> => {
  const bitmaps = new Map<string, Uint32Array>()
  for (let at = 0; at < length; at += 4 + data[at + 3]!) {
    bitmaps.set(`${data[at]!} ${data[at + 1]!}`, Uint32Array.from(data.subarray(at + 4, at + 4 + data[at + 3]!)))
  }
  return bitmaps
}
