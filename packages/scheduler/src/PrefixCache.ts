import { InvariantViolation } from "./InvariantViolation.ts"

/** Names a full page of a prefix: equal keys mean that everything up to the page's end is equal. Opaque. */
export type PageKey = string | number

/** Keys of full pages, first page first: an array, or one that is worked out where it is asked for. Does not change. */
export interface PageKeyList {
  readonly length: number
  at(page: number): PageKey | undefined
}

/**
 * A full page that any request with the same prefix may read: the slabs of all tables that depend on the prefix alone.
 *
 * For requests that drop those are segment 0's K/V and its carry rows, as one unit: what comes above the first drop layer
 * depends on the prompt's last queries, and without the carry a hit would save almost nothing. For requests that do not
 * drop it is the K/V of every layer.
 */
export class CachedPage {
  readonly key: PageKey
  /** The page before it; null for a root, which is no page. */
  readonly parent: CachedPage | null
  /** Slabs of full and carry tables, table by table. */
  readonly slabs: ReadonlyArray<number>
  /** Slabs of each sliding table, null where they are not kept: a window is kept only where prefill may resume after it. */
  readonly windows: Array<ReadonlyArray<number> | null>
  /** Holds the recurrent states as they are after the page's last row; −1 without. */
  stateSlot = -1
  /** All slabs, those of windows included. */
  slabCount: number
  /** Requests whose prefix it is. */
  users = 0
  /** Neighbours among the pages that nobody uses, in order of when they were last used. */
  older: CachedPage | null = null
  newer: CachedPage | null = null
  /** Pages behind it: the first one, and where prefixes part, the others. */
  next: CachedPage | null = null
  others: Map<PageKey, CachedPage> | null = null

  constructor(key: PageKey, parent: CachedPage | null, slabs: ReadonlyArray<number>, windows: number) {
    this.key = key
    this.parent = parent
    this.slabs = slabs
    this.slabCount = slabs.length
    this.windows = windows === 0 ? none : new Array<ReadonlyArray<number> | null>(windows).fill(null)
  }

  /** The page behind this one that has `key`. */
  find(key: PageKey): CachedPage | undefined {
    return this.next !== null && this.next.key === key ? this.next : this.others?.get(key)
  }
}

const none: Array<never> = []

/**
 * Full pages as a tree: a page's children are the pages that follow it in some prefix. Those that nobody uses are evicted,
 * the least recently used first. A request uses every page of its prefix and gives the last one up first, so what is
 * evicted never has pages behind it.
 */
export class PrefixCache {
  /** Slabs of all cached pages. */
  slabs = 0
  /** Slabs of pages that nobody uses. */
  idleSlabs = 0
  /** Changes with everything that decides how much of a prefix is found. */
  version = 0
  private readonly made: Array<CachedPage> = []
  /** Ends of the list of pages without users. */
  private oldest: CachedPage | null = null
  private newest: CachedPage | null = null

  /** The start of a tree of its own, for pages that hold other tables than those of the other trees. */
  root(): CachedPage {
    const root = new CachedPage("", null, [], 0)
    this.made.push(root)
    return root
  }

  /** The starts of all trees. */
  get roots(): ReadonlyArray<CachedPage> {
    return this.made
  }

  /** Adds a page that its maker goes on using. Requires: `parent` has no page with the key. */
  publish(parent: CachedPage, key: PageKey, slabs: ReadonlyArray<number>, windows: number): CachedPage {
    const page = new CachedPage(key, parent, slabs, windows)
    page.users = 1
    if (parent.next === null) parent.next = page
    else (parent.others ??= new Map()).set(key, page)
    this.slabs += slabs.length
    this.version++
    return page
  }

  /** Adds the slabs of a sliding table to a page in use that has none of it. */
  addWindow(page: CachedPage, window: number, slabs: ReadonlyArray<number>): void {
    if (page.users === 0) throw new InvariantViolation("a window is added by a user", { key: page.key })
    page.windows[window] = slabs
    page.slabCount += slabs.length
    this.slabs += slabs.length
    this.version++
  }

  /** A copy of the recurrent states after a page's last row lies in `stateSlot`. */
  addSnapshot(page: CachedPage, stateSlot: number): void {
    page.stateSlot = stateSlot
    this.version++
  }

  acquire(page: CachedPage): void {
    if (page.users++ === 0) {
      this.unlink(page)
      this.idleSlabs -= page.slabCount
    }
  }

  release(page: CachedPage): void {
    if (page.users === 0) throw new InvariantViolation("a page is given back by a user", { key: page.key })
    if (--page.users === 0) {
      page.older = this.newest
      if (this.newest === null) this.oldest = page
      else this.newest.newer = page
      this.newest = page
      this.idleSlabs += page.slabCount
    }
  }

  /** Forgets the page longest unused and returns it; undefined when every page has users. */
  evict(): CachedPage | undefined {
    const page = this.oldest
    if (page === null) return undefined
    if (page.next !== null || (page.others !== null && page.others.size > 0)) {
      throw new InvariantViolation("a page is evicted after those behind it", { key: page.key })
    }
    this.unlink(page)
    this.detach(page)
    this.idleSlabs -= page.slabCount
    this.slabs -= page.slabCount
    this.version++
    return page
  }

  /** Every page, each after the one before it. */
  values(): Array<CachedPage> {
    const pages: Array<CachedPage> = []
    const open = [...this.roots]
    for (let page = open.pop(); page !== undefined; page = open.pop()) {
      if (page.parent !== null) pages.push(page)
      if (page.next !== null) open.push(page.next)
      if (page.others !== null) open.push(...page.others.values())
    }
    return pages
  }

  private detach(page: CachedPage): void {
    const parent = page.parent!
    if (parent.next !== page) parent.others!.delete(page.key)
    else parent.next = null
  }

  private unlink(page: CachedPage): void {
    if (page.older === null) this.oldest = page.newer
    else page.older.newer = page.newer
    if (page.newer === null) this.newest = page.older
    else page.newer.older = page.older
    page.older = page.newer = null
  }
}
