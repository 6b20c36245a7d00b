import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import { ItemField, type Section, sectionWidths, StateOperation, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { ExecutorError, type RequestContent } from "./Executor.ts"
import { RowChecks } from "./RowChecks.ts"
import { SlabBooks } from "./SlabBooks.ts"
import { type PageTable, SlotBooks } from "./SlotBooks.ts"
import { StateBooks } from "./StateBooks.ts"

/** Everything that plans change before rows are computed. */
export class Books {
  /** Contents that no slot has been opened for. */
  readonly contents = new Map<number, RequestContent>()
  readonly slots = new Map<number, SlotBooks>()
  /** The decode set, in the order of its rows. */
  readonly decode: Array<number> = []
  readonly memory: SlabBooks
  readonly states: StateBooks
  /** The last step applied. */
  stepId = 0

  constructor(slabs: number, stateSlots: number, segments: number) {
    this.memory = new SlabBooks(slabs)
    this.states = new StateBooks(stateSlots, segments)
  }

  /** Forgets everything but contents, and the step that failed: its number comes again. */
  reset(): void {
    this.slots.clear()
    this.decode.length = 0
    this.memory.reset()
    this.states.reset()
  }
}

export interface PlanLimits {
  readonly layout: KvLayout
  readonly schedule: DropSchedule
  readonly slots: number
  readonly vocab: number
  readonly maxRowsPerStep: number
  readonly maxTokens: number
}

export interface Item {
  readonly slot: number
  readonly firstRow: number
  readonly rows: number
  readonly firstSegment: number
  readonly lastSegment: number
}

/** What is left to do once a plan has been found sound: changes of memory, then rows. */
export interface Work {
  /** Slabs granted: what they held is erased. */
  readonly erase: ReadonlyArray<number>
  readonly copies: ReadonlyArray<readonly [source: number, target: number]>
  readonly states: ReadonlyArray<readonly [operation: number, slotState: number, stateSlot: number]>
  readonly items: ReadonlyArray<Item>
  readonly samples: ReadonlyArray<readonly [item: number, slot: number]>
}

/**
 * Applies a plan's sections to the books, in their order, and checks every record against what the ones before it left.
 *
 * Mutates: books. Fails (throws) with ExecutorError `InvalidPlan`, naming section, record and numbers; the books have been
 * reset then.
 */
export const applyPlan = (books: Books, plan: StepPlan, limits: PlanLimits): Work => {
  try {
    return new PlanReader(books, plan, limits).read()
  } catch (cause) {
    books.reset()
    throw cause
  }
}

class PlanReader {
  private readonly books: Books
  private readonly plan: StepPlan
  private readonly limits: PlanLimits
  private place = ""

  constructor(books: Books, plan: StepPlan, limits: PlanLimits) {
    this.books = books
    this.plan = plan
    this.limits = limits
  }

  read(): Work {
    const { books } = this
    const { memory, states } = books
    const { layout } = this.limits
    this.place = "step"
    this.check(this.plan.stepId === books.stepId + 1, `id ${this.plan.stepId} after ${books.stepId}`)
    const erase: Array<number> = []
    const copies: Array<[number, number]> = []
    const stateWork: Array<[number, number, number]> = []
    /** Slots that are given pages that others have computed. */
    const hits = new Set<number>()

    this.each("retains", ([slab]) => {
      this.slab(slab!)
      this.check(!memory.isFree(slab!), `slab ${slab} is free`)
      this.check(memory.cached[slab!] === 0, `slab ${slab} is cached already`)
      memory.retain(slab!)
    })
    this.each("leaves", ([id]) => {
      const at = books.decode.indexOf(id!)
      this.check(at >= 0, `slot ${id} is not in the decode set`)
      books.decode[at] = books.decode[books.decode.length - 1]!
      books.decode.pop()
    })
    this.each("closes", ([id]) => {
      const slot = this.slot(id!)
      this.check(!books.decode.includes(id!), `slot ${id} is in the decode set`)
      for (const { slabs } of slot.tables) for (const slab of slabs) memory.release(slab)
      if (slot.stateSlot >= 0) states.unbind(slot.stateSlot)
      books.slots.delete(id!)
    })
    this.each("opens", ([id, contentId]) => {
      this.check(id! >= 0 && id! < this.limits.slots, `slot ${id} of ${this.limits.slots}`)
      this.check(!books.slots.has(id!), `slot ${id} is open`)
      const content = books.contents.get(contentId!) ?? this.fail(`content ${contentId} is not there`)
      books.contents.delete(contentId!)
      books.slots.set(id!, new SlotBooks(content, layout.tables.length, layout.segments.length, this.limits.schedule))
    })
    this.each("trims", ([id, t, pages]) => {
      const table = this.table(id!, t!)
      const { slabsPerPage, kind, segment } = layout.tables[t!]!
      const held = table.slabs.length / slabsPerPage
      this.check(pages! >= 0 && pages! <= held, `keeps ${pages} pages of ${held}`)
      const room = (table.freedPages + pages!) * layout.pageSize
      const needed = this.slot(id!).neededRows(kind, segment)
      this.check(
        pages === held || room >= needed,
        `table ${t} of slot ${id} is left with room for ${room} rows, ${needed} are still needed`,
      )
      for (const slab of table.slabs.splice(pages! * slabsPerPage)) memory.release(slab)
    })
    this.each("windowFrees", ([id, t, pages]) => {
      const table = this.table(id!, t!)
      const slot = this.slot(id!)
      const { slabsPerPage, kind, segment } = layout.tables[t!]!
      const held = table.slabs.length / slabsPerPage
      this.check(kind === "sliding", `table ${t} is ${kind}, not sliding`)
      if (table.slabs.length + table.freedPages === 0 && slot.mayMap) {
        const most = Math.floor(slot.prefillRows(segment) / layout.pageSize)
        this.check(pages! >= 1 && pages! <= most, `leaves out ${pages} pages of ${most}`)
        table.freedPages = pages!
        hits.add(id!)
        return
      }
      this.check(pages! >= 1 && pages! <= held, `gives back ${pages} pages of ${held}`)
      for (const slab of table.slabs.splice(0, pages! * slabsPerPage)) memory.release(slab)
      table.freedPages += pages!
    })
    this.each("evictions", ([slab]) => {
      this.slab(slab!)
      this.check(memory.cached[slab!] === 1, `slab ${slab} is not cached`)
      memory.evict(slab!)
    })
    this.each("maps", ([id, t, slab]) => {
      this.slab(slab!)
      const table = this.table(id!, t!)
      const slot = this.slot(id!)
      this.check(slot.mayMap, `slot ${id} has computed ${slot.computed.join(", ")} rows, ${slot.decoded} decoded`)
      this.check(!memory.isFree(slab!), `slab ${slab} is free: neither the cache nor a table holds it`)
      table.slabs.push(slab!)
      memory.hold(slab!)
      hits.add(id!)
    })
    this.place = "maps"
    for (const id of hits) this.countMappedRows(id)
    const granted = new Set<number>()
    this.each("grants", ([id, t, slab]) => {
      this.slab(slab!)
      this.check(memory.isFree(slab!), `slab ${slab} is not free`)
      this.table(id!, t!).slabs.push(slab!)
      memory.hold(slab!)
      erase.push(slab!)
      granted.add(slab!)
    })
    for (const [id, { tables }] of books.slots) {
      for (let t = 0; t < tables.length; t++) {
        const { slabsPerPage } = layout.tables[t]!
        const { length } = tables[t]!.slabs
        if (length % slabsPerPage === 0) continue
        this.fail(`slot ${id} table ${t} holds ${length} slabs, pages have ${slabsPerPage}`)
      }
    }
    this.each("copies", ([source, target]) => {
      this.slab(source!)
      this.slab(target!)
      this.check(!memory.isFree(source!), `source slab ${source} is free`)
      this.check(granted.has(target!), `target slab ${target} is not granted in this step`)
      copies.push([source!, target!])
    })
    this.each("states", ([id, operation, stateSlot]) => {
      const slot = this.slot(id!)
      this.check(stateSlot! >= 0 && stateSlot! < states.count, `state slot ${stateSlot} of ${states.count}`)
      const owner = states.owner[stateSlot!]!
      if (operation !== StateOperation.restore) {
        this.check(owner < 0 || owner === id, `state slot ${stateSlot} belongs to slot ${owner}`)
      }
      if (operation === StateOperation.zero) {
        if (slot.stateSlot >= 0) states.unbind(slot.stateSlot)
        slot.stateSlot = stateSlot!
        states.bind(stateSlot!, id!)
      } else {
        this.check(
          operation === StateOperation.snapshot || operation === StateOperation.restore,
          `operation ${operation}`,
        )
        this.check(slot.stateSlot >= 0, `slot ${id} has no state`)
        this.check(owner !== id, `state slot ${stateSlot} is the slot's own`)
        if (operation === StateOperation.snapshot) states.keep(slot.stateSlot, stateSlot!)
        else {
          this.check(owner >= 0 || states.kept[stateSlot!] === 1, `state slot ${stateSlot} holds no state`)
          states.resume(stateSlot!, slot.stateSlot)
        }
      }
      stateWork.push([operation!, slot.stateSlot, stateSlot!])
    })
    this.each("joins", ([id, token]) => {
      const slot = this.slot(id!)
      this.check(!books.decode.includes(id!), `slot ${id} decodes already`)
      this.check(slot.prefilled, `slot ${id} is not prefilled: ${slot.computed.join(", ")} rows`)
      this.check(token! >= -1 && token! < this.limits.vocab, `token ${token} of ${this.limits.vocab}`)
      if (token! >= 0) slot.nextToken = token!
      this.check(slot.nextToken >= 0, `slot ${id} has sampled no token`)
      books.decode.push(id!)
    })
    this.place = "decode set"
    const rowChecks = new RowChecks(books, this.limits, (holds, detail) => this.check(holds, detail))
    for (const id of books.decode) rowChecks.decodeRow(id)
    const items = this.readItems(rowChecks)
    const samples = this.readSamples(items)
    books.stepId = this.plan.stepId
    return { erase, copies, states: stateWork, items, samples }
  }

  private readItems(rowChecks: RowChecks): ReadonlyArray<Item> {
    const { books } = this
    const items: Array<Item> = []
    let rows = books.decode.length
    this.each("items", (record) => {
      const item: Item = {
        slot: record[ItemField.slot]!,
        firstRow: record[ItemField.firstRow]!,
        rows: record[ItemField.rows]!,
        firstSegment: record[ItemField.firstSegment]!,
        lastSegment: record[ItemField.lastSegment]!,
      }
      this.slot(item.slot)
      this.check(!books.decode.includes(item.slot), `slot ${item.slot} is in the decode set`)
      this.check(!items.some((other) => other.slot === item.slot), `slot ${item.slot} has two items`)
      rowChecks.item(item)
      items.push(item)
      rows += item.rows
      this.check(rows <= this.limits.maxRowsPerStep, `${rows} rows in the step, at most ${this.limits.maxRowsPerStep}`)
    })
    return items
  }

  /**
   * Mapped pages bring their rows: segment 0 of a slot that drops, every segment of one that does not. A slot that adopted
   * a prefill has every row already.
   */
  private countMappedRows(id: number): void {
    const { layout } = this.limits
    const slot = this.slot(id)
    if (slot.adopted) return
    const tables = layout.tables.flatMap((table, t) =>
      slot.drops ? (table.segment === 0 ? [t] : []) : table.kind === "carry" ? [] : [t],
    )
    const pages = Math.min(...tables.map((t) => pageCount(slot.tables[t]!, layout.tables[t]!.slabsPerPage)))
    const rows = pages * layout.pageSize
    const most = slot.prefillRows(0)
    this.check(rows <= most, `maps ${rows} rows for slot ${id}, which has ${most}`)
    slot.computed[0] = rows
  }

  private readSamples(items: ReadonlyArray<Item>): ReadonlyArray<readonly [number, number]> {
    const samples: Array<[number, number]> = []
    this.each("samples", ([index, id]) => {
      const item = items[index!]
      if (item === undefined) return this.fail(`item ${index} of ${items.length}`)
      const source = this.slot(item.slot)
      const target = this.slot(id!)
      const last = this.limits.layout.segments.length - 1
      const rows = source.prefillRows(item.firstSegment)
      const ends = item.lastSegment === last && item.firstRow + item.rows === rows
      this.check(
        ends,
        `item ${index} ends at row ${item.firstRow + item.rows} of ${rows} in segment ${item.lastSegment} of ${last}`,
      )
      this.check(!samples.some(([, other]) => other === id), `slot ${id} is sampled twice`)
      if (target !== source) {
        const fault = target.adoptionFault(source)
        this.check(fault === null, `slot ${id} cannot go on from slot ${item.slot}: it ${fault}`)
      }
      samples.push([index!, id!])
    })
    return samples
  }

  private records(section: Section): Array<ReadonlyArray<number>> {
    const { data, length } = this.plan[section]
    const width = sectionWidths[section]
    this.place = section
    this.check(length % width === 0, `${length} integers, records have ${width}`)
    return Array.from({ length: length / width }, (_, i) => Array.from(data.subarray(i * width, (i + 1) * width)))
  }

  private each(section: Section, visit: (record: ReadonlyArray<number>) => void): void {
    if (this.plan[section].length === 0) {
      this.place = section
      return
    }
    for (const [i, record] of this.records(section).entries()) {
      this.place = `${section}[${i}]`
      visit(record)
    }
  }

  private slot(id: number): SlotBooks {
    return this.books.slots.get(id) ?? this.fail(`slot ${id} is not open`)
  }

  private table(id: number, table: number): PageTable {
    return this.slot(id).tables[table] ?? this.fail(`table ${table} of ${this.limits.layout.tables.length}`)
  }

  private slab(slab: number): void {
    this.check(slab >= 0 && slab < this.books.memory.count, `slab ${slab} of ${this.books.memory.count}`)
  }

  private check(holds: boolean, detail: string): void {
    if (!holds) this.fail(detail)
  }

  private fail(detail: string): never {
    const operation = `step ${this.plan.stepId}`
    throw new ExecutorError({ reason: "InvalidPlan", operation, detail: `${this.place}: ${detail}` })
  }
}

const pageCount = (table: PageTable, slabsPerPage: number): number =>
  table.freedPages + Math.floor(table.slabs.length / slabsPerPage)
