import type { KvLayout } from "@uniprefill/model/KvLayout"
import { IntList } from "./IntList.ts"
import type { PageKey, PageKeyList, PageRun } from "./PrefixTree.ts"

/** A slot's page tables. */
export interface PageTables {
  /** Slabs of each table, page after page, pages given back at the front left out. */
  readonly slabs: ReadonlyArray<IntList>
  /** Pages given back at the front of each table (sliding windows). */
  readonly freed: Int32Array
}

/** What a request holds: its slot, its pages, and what is set aside for it. Changed by `Memory` and its parts alone. */
export class Holdings {
  slot = -1
  stateSlot = -1
  /** Page tables, its slot's own while it has one. */
  pages: PageTables
  /** Keys of the full pages known so far; those of generated tokens follow those of the prompt. */
  pageKeys: PageKeyList
  /**
   * The last run of cached pages of its prefix, which uses it and those before it whole; and their pages, from the first one
   * on. Its tables hold their slabs, or a copy made at the same time.
   */
  lastRun: PageRun | null = null
  cachedPages = 0
  /** Carry 0 is kept and grows with the output, so that pages with output can be cached. */
  keepsCarry = false
  /** Another answer to its prompt has, or had, pages of its tables. */
  isForked = false
  /** Slabs set aside for the rest of this request. */
  reservedSlabs = 0
  /** While it waits: slabs that its prefill may need, −1 until that is asked. */
  prefillSlabs = -1
  /** Some table lacks a page for the next decode row once so many are planned: see DecodeSet. */
  lacksAt = 0
  /** `pageKeys`, once the list of the submission is not all of them. */
  private ownKeys: Array<PageKey> | null = null

  constructor(layout: KvLayout, pageKeys: PageKeyList) {
    this.pages = noPages(layout)
    this.pageKeys = pageKeys
  }

  /** The key of one more full page. */
  addKey(key: PageKey): void {
    const { pageKeys } = this
    this.ownKeys ??= Array.from({ length: pageKeys.length }, (_, page) => pageKeys.at(page)!)
    this.ownKeys.push(key)
    this.pageKeys = this.ownKeys
  }

  /** Takes over the keys that another answer to the same prompt knows. */
  adoptKeys({ pageKeys, ownKeys }: Holdings): void {
    this.ownKeys = ownKeys === null ? null : ownKeys.slice()
    this.pageKeys = this.ownKeys ?? pageKeys
  }

  get tables(): ReadonlyArray<IntList> {
    return this.pages.slabs
  }

  get freedPages(): Int32Array {
    return this.pages.freed
  }
}

export const makePages = (layout: KvLayout): PageTables => ({
  slabs: layout.tables.map(() => new IntList(4)),
  freed: new Int32Array(layout.tables.length),
})

/** What a request without a slot has: empty tables, which nobody writes to. One for each layout. */
export const noPages = (layout: KvLayout): PageTables => {
  let none = empty.get(layout)
  if (none === undefined) {
    none = { slabs: layout.tables.map(() => new IntList(0)), freed: new Int32Array(layout.tables.length) }
    empty.set(layout, none)
  }
  return none
}

const empty = new WeakMap<KvLayout, PageTables>()

/** Records `[slot, table, slab]` for the slabs of a table from number `first` on. */
export const listSlabs = (records: IntList, slot: number, table: number, slabs: IntList, first: number): void => {
  let at = records.extend(3 * (slabs.length - first))
  const { data } = records
  for (let i = first; i < slabs.length; i++) {
    data[at] = slot
    data[at + 1] = table
    data[at + 2] = slabs.data[i]!
    at += 3
  }
}

/** Takes the records of a slot out of a list of `[slot, table, pages]`. */
export const removeSlot = (records: IntList, slot: number): void => {
  const { data, length } = records
  let kept = 0
  for (let i = 0; i < length; i += 3) {
    if (data[i] === slot) continue
    if (kept !== i) data.copyWithin(kept, i, i + 3)
    kept += 3
  }
  records.length = kept
}
