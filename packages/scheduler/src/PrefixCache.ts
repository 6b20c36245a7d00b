import { InvariantViolation } from "./InvariantViolation.ts"

/**
 * A full page that any request with the same prefix may read: the slabs of all tables that depend on the prefix alone.
 *
 * For requests that drop those are segment 0's K/V and its carry rows, as one unit: what comes above the first drop layer
 * depends on the prompt's last queries, and without the carry a hit would save almost nothing. For requests that do not
 * drop it is the K/V of every layer.
 */
export interface CachedPage {
  /** Chained hash of everything the page's content depends on. Opaque here. */
  readonly key: string
  /** Slabs table by table, in the order of the tables. */
  readonly slabs: ReadonlyArray<number>
  /** Requests whose tables hold the page. */
  users: number
  /** Neighbours among the pages that nobody uses, in order of when they were last used. */
  older: CachedPage | null
  newer: CachedPage | null
}

/** Full pages by key; those that nobody uses are evicted, the least recently used first. */
export class PrefixCache {
  /** Slabs of all cached pages. */
  slabs = 0
  /** Slabs of pages that nobody uses. */
  idleSlabs = 0
  private readonly pages = new Map<string, CachedPage>()
  /** Ends of the list of pages without users. */
  private oldest: CachedPage | null = null
  private newest: CachedPage | null = null

  get(key: string): CachedPage | undefined {
    return this.pages.get(key)
  }

  /** Adds a page that its maker goes on using. Requires: the key is new. */
  publish(key: string, slabs: ReadonlyArray<number>): CachedPage {
    if (this.pages.has(key)) throw new InvariantViolation("a page is published once", { key })
    const page: CachedPage = { key, slabs, users: 1, older: null, newer: null }
    this.pages.set(key, page)
    this.slabs += slabs.length
    return page
  }

  acquire(page: CachedPage): void {
    if (page.users++ === 0) {
      this.unlink(page)
      this.idleSlabs -= page.slabs.length
    }
  }

  release(page: CachedPage): void {
    if (page.users === 0) throw new InvariantViolation("a page is given back by a user", { key: page.key })
    if (--page.users === 0) {
      page.older = this.newest
      if (this.newest === null) this.oldest = page
      else this.newest.newer = page
      this.newest = page
      this.idleSlabs += page.slabs.length
    }
  }

  /** Forgets the page longest unused and returns it; undefined when every page has users. */
  evict(): CachedPage | undefined {
    const page = this.oldest
    if (page === null) return undefined
    this.unlink(page)
    this.pages.delete(page.key)
    this.idleSlabs -= page.slabs.length
    this.slabs -= page.slabs.length
    return page
  }

  values(): Iterable<CachedPage> {
    return this.pages.values()
  }

  private unlink(page: CachedPage): void {
    if (page.older === null) this.oldest = page.newer
    else page.older.newer = page.newer
    if (page.newer === null) this.newest = page.older
    else page.newer.older = page.older
    page.older = page.newer = null
  }
}
