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
}

/** Full pages by key; those that nobody uses are evicted, the least recently used first. */
export class PrefixCache {
  /** Slabs of all cached pages. */
  slabs = 0
  /** Slabs of pages that nobody uses. */
  idleSlabs = 0
  private readonly pages = new Map<string, CachedPage>()
  /** Pages without users, the one longest unused first. */
  private readonly idle = new Map<string, CachedPage>()

  get(key: string): CachedPage | undefined {
    return this.pages.get(key)
  }

  /** Adds a page that its maker goes on using. Requires: the key is new. */
  publish(key: string, slabs: ReadonlyArray<number>): CachedPage {
    if (this.pages.has(key)) throw new InvariantViolation("a page is published once", { key })
    const page = { key, slabs, users: 1 }
    this.pages.set(key, page)
    this.slabs += slabs.length
    return page
  }

  acquire(page: CachedPage): void {
    if (page.users++ === 0) {
      this.idle.delete(page.key)
      this.idleSlabs -= page.slabs.length
    }
  }

  release(page: CachedPage): void {
    if (page.users === 0) throw new InvariantViolation("a page is given back by a user", { key: page.key })
    if (--page.users === 0) {
      this.idle.set(page.key, page)
      this.idleSlabs += page.slabs.length
    }
  }

  /** Forgets the page longest unused and returns it; undefined when every page has users. */
  evict(): CachedPage | undefined {
    for (const page of this.idle.values()) {
      this.idle.delete(page.key)
      this.pages.delete(page.key)
      this.idleSlabs -= page.slabs.length
      this.slabs -= page.slabs.length
      return page
    }
    return undefined
  }

  values(): Iterable<CachedPage> {
    return this.pages.values()
  }
}
