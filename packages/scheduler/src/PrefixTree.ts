import { IntList } from "./IntList.ts"
import { InvariantViolation } from "./InvariantViolation.ts"

/** Names a full page of a prefix: equal keys mean that everything up to the page's end is equal. Opaque. */
export type PageKey = string | number

/** Keys of full pages, first page first: an array, or one that is worked out where it is asked for. Does not change. */
export interface PageKeyList {
  readonly length: number
  at(page: number): PageKey | undefined
}

/** What a page has of a sliding table. */
export interface CachedWindow {
  readonly slabs: Int32Array
  /** Tables that have its slabs, and steps in flight that read them for tables that no longer do. */
  readers: number
}

/**
 * Full pages, one behind the other, that the same requests use: what any request with the same prefix may read, the slabs of
 * all tables that depend on the prefix alone.
 *
 * For requests that drop those are segment 0's K/V and its carry rows, as one unit: what comes above the first drop layer
 * depends on the prompt's last queries, and without the carry a hit would save almost nothing. For requests that do not
 * drop it is the K/V of every layer.
 *
 * Where windows or states belong to a page, it is a run of its own.
 */
export class PageRun {
  /** The run before it; null for a root, which has no pages. */
  parent: PageRun | null
  /** Of each page. */
  keys: Array<PageKey> = []
  /** Slabs of full and carry tables: page after page, as many each, table by table. */
  slabs: IntList = noSlabs
  /** Of each sliding table, null where it is not kept: a window is kept only where prefill may resume after it. */
  readonly windows: Array<CachedWindow | null>
  /** Holds the recurrent states as they are after the last row; −1 without. */
  stateSlot = -1
  /** All slabs, those of windows included. */
  slabCount = 0
  /** Requests whose prefix goes through it, from its first page to its last. */
  users = 0
  /** Neighbours among the runs that nobody uses, in order of when they were last used. */
  older: PageRun | null = null
  newer: PageRun | null = null
  /** Runs behind it: the first one, and where prefixes part, the others, by their first keys. */
  next: PageRun | null = null
  others: Map<PageKey, PageRun> | null = null

  constructor(parent: PageRun | null, windows: number) {
    this.parent = parent
    this.windows = windows === 0 ? none : new Array<CachedWindow | null>(windows).fill(null)
  }

  get pages(): number {
    return this.keys.length
  }

  /** Index in `slabs` of a page's first one. */
  slabsBefore(page: number): number {
    return (this.slabs.length / this.keys.length) * page
  }

  /** The run behind this one that begins with `key`. */
  find(key: PageKey): PageRun | undefined {
    return this.next !== null && this.next.keys[0] === key ? this.next : this.others?.get(key)
  }

  /** How many of its pages, from the first one on, a prefix has from its page number `first` on: `most` at most. */
  matches(keys: PageKeyList, first: number, most: number): number {
    const end = Math.min(most, this.keys.length)
    for (let page = 0; page < end; page++) if (this.keys[page] !== keys.at(first + page)) return page
    return end
  }

  /** Which of its windows nobody reads: the first one, −1 for none. */
  get unreadWindow(): number {
    return this.windows.findIndex((window) => window !== null && window.readers === 0)
  }

  get isLeaf(): boolean {
    return this.next === null && (this.others === null || this.others.size === 0)
  }
}

const none: Array<never> = []

/** Lists that are kept for new runs. */
const mostSpare = 64

/** Of a root. Nobody writes to it. */
const noSlabs = new IntList(0)

/**
 * Full pages as a tree of runs: the runs behind one are those that follow it in some prefix. Pages of runs that nobody uses are
 * evicted, those of the least recently used first, each run from its end. A request uses every run of its prefix and gives the
 * last one up first, so what is evicted never has pages behind it.
 */
export class PrefixTree {
  /** Slabs of all cached pages. */
  slabs = 0
  /** Slabs of pages that nobody uses, and of windows that nobody reads. */
  idleSlabs = 0
  /** Changes with everything that decides how much of a prefix is found. */
  version = 0
  private readonly made: Array<PageRun> = []
  /** Lists of runs that are gone, for new ones. */
  private readonly spare: Array<IntList> = []
  /** Ends of the list of runs without users. */
  private oldest: PageRun | null = null
  private newest: PageRun | null = null
  /** Runs in use with windows that nobody reads: who uses them has gone on. */
  private readonly passed = new Set<PageRun>()

  /** The start of a tree of its own, for pages that hold other tables than those of the other trees. */
  root(): PageRun {
    const root = new PageRun(null, 0)
    this.made.push(root)
    return root
  }

  /** The starts of all trees. */
  get roots(): ReadonlyArray<PageRun> {
    return this.made
  }

  /**
   * Starts a run, with room for so many slabs at first, whose maker appends the page that `key` names and goes on using it.
   * Requires: `parent` has no run that begins with the key.
   */
  start(parent: PageRun, key: PageKey, windows: number, room: number): PageRun {
    const run = new PageRun(parent, windows)
    run.users = 1
    run.slabs = this.spare.pop() ?? new IntList()
    run.slabs.makeRoom(room)
    if (parent.next === null) parent.next = run
    else (parent.others ??= new Map()).set(key, run)
    return run
  }

  /** Whether its only user may add pages to a run. */
  canExtend(run: PageRun): boolean {
    return run.users === 1 && run.isLeaf && run.windows.length === 0
  }

  /**
   * Adds pages `first` … `end` − 1 of a prefix at the end of a run, with the slabs of a list from number `at` on. Requires a run
   * that was just started, or {@link canExtend}.
   */
  append(run: PageRun, keys: PageKeyList, first: number, end: number, slabs: IntList, at: number): void {
    const { data, length } = slabs
    for (let page = first; page < end; page++) run.keys.push(keys.at(page)!)
    run.slabs.pushRun(data, at, length)
    run.slabCount += length - at
    this.slabs += length - at
    this.version++
  }

  /** The first `pages` pages of a run become a run of their own, before the others: who uses the run uses both. */
  split(run: PageRun, pages: number): PageRun {
    const front = new PageRun(run.parent, 0)
    const parent = run.parent!
    const at = run.slabsBefore(pages)
    front.keys = run.keys.slice(0, pages)
    front.slabs = new IntList(at)
    front.slabs.pushRun(run.slabs.data, 0, at)
    front.slabCount = at
    front.users = run.users
    front.next = run
    if (parent.next === run) parent.next = front
    else parent.others!.set(front.keys[0]!, front)
    const rest = new IntList(run.slabs.length - at)
    rest.pushRun(run.slabs.data, at, run.slabs.length)
    run.parent = front
    run.keys = run.keys.slice(pages)
    run.slabs = rest
    run.slabCount -= at
    // Given up after the pages behind it.
    if (run.users === 0) this.linkAfter(front, run)
    return front
  }

  /** Adds the slabs of a sliding table to a run of one page that has none of it: those of a user's table, which reads them. */
  addWindow(run: PageRun, window: number, slabs: Int32Array): void {
    if (run.users === 0) throw new InvariantViolation("a window is added by a user", { key: run.keys[0] })
    run.windows[window] = { slabs, readers: 1 }
    run.slabCount += slabs.length
    this.slabs += slabs.length
    this.version++
  }

  /** One more table has the slabs of a run's window. */
  read(run: PageRun, window: number): void {
    const { slabs, readers } = run.windows[window]!
    run.windows[window]!.readers++
    if (readers > 0) return
    this.idleSlabs -= slabs.length
    this.note(run)
  }

  /** One table less has them, and no step in flight reads them for it. */
  unread(run: PageRun, window: number): void {
    const { slabs, readers } = run.windows[window]!
    if (readers === 0) throw new InvariantViolation("a window is given back by a reader", { key: run.keys[0], window })
    run.windows[window]!.readers--
    if (readers > 1) return
    this.idleSlabs += slabs.length
    this.note(run)
  }

  /** A run in use with windows that nobody reads; null when there is none. */
  get firstPassed(): PageRun | null {
    for (const run of this.passed) return run
    return null
  }

  /** Forgets a window that nobody reads: prefill can no longer resume where it is seen. */
  evictWindow(run: PageRun, window: number): void {
    const { slabs, readers } = run.windows[window]!
    if (readers > 0) throw new InvariantViolation("a window that is read is not evicted", { key: run.keys[0], window })
    run.windows[window] = null
    run.slabCount -= slabs.length
    this.idleSlabs -= slabs.length
    this.slabs -= slabs.length
    this.version++
    this.note(run)
  }

  private note(run: PageRun): void {
    if (run.users > 0 && run.unreadWindow >= 0) this.passed.add(run)
    else this.passed.delete(run)
  }

  /** A copy of the recurrent states after a run's last row lies in `stateSlot`. */
  addSnapshot(run: PageRun, stateSlot: number): void {
    run.stateSlot = stateSlot
    this.version++
  }

  acquire(run: PageRun): void {
    if (run.users++ === 0) {
      this.unlink(run)
      this.idleSlabs -= run.slabs.length
      if (run.windows.length > 0) this.note(run)
    }
  }

  release(run: PageRun): void {
    if (run.users === 0) throw new InvariantViolation("a page is given back by a user", { key: run.keys[0] })
    if (--run.users === 0) {
      this.linkAfter(run, this.newest)
      this.idleSlabs += run.slabs.length
      if (run.windows.length > 0) this.note(run)
    }
  }

  /** The run that is evicted next, its last page first; null when every one has users. */
  get leastRecent(): PageRun | null {
    return this.oldest
  }

  /** Forgets the pages longest unused: the last ones of {@link leastRecent}, as many as are said. */
  evict(pages = 1): void {
    const run = this.oldest!
    if (!run.isLeaf) throw new InvariantViolation("a page is evicted after those behind it", { key: run.keys.at(-1) })
    const at = run.slabsBefore(run.pages - pages)
    const gone = run.pages === pages ? run.slabCount : run.slabs.length - at
    let key: PageKey | undefined
    for (let i = 0; i < pages; i++) key = run.keys.pop()
    run.slabs.length = at
    run.slabCount -= gone
    this.idleSlabs -= gone
    this.slabs -= gone
    this.version++
    if (run.pages > 0) return
    if (this.spare.length < mostSpare) this.spare.push(run.slabs)
    run.slabs = noSlabs
    this.unlink(run)
    const parent = run.parent!
    if (parent.next === run) parent.next = null
    else parent.others!.delete(key!)
  }

  /** Every run, each after the one before it. */
  values(): Array<PageRun> {
    const runs: Array<PageRun> = []
    const open = [...this.roots]
    for (let run = open.pop(); run !== undefined; run = open.pop()) {
      if (run.parent !== null) runs.push(run)
      if (run.next !== null) open.push(run.next)
      if (run.others !== null) open.push(...run.others.values())
    }
    return runs
  }

  /** Puts a run among those without users, behind `older`; null: before all. */
  private linkAfter(run: PageRun, older: PageRun | null): void {
    const newer = older === null ? this.oldest : older.newer
    run.older = older
    run.newer = newer
    if (older === null) this.oldest = run
    else older.newer = run
    if (newer === null) this.newest = run
    else newer.older = run
  }

  private unlink(run: PageRun): void {
    if (run.older === null) this.oldest = run.newer
    else run.older.newer = run.newer
    if (run.newer === null) this.newest = run.older
    else run.newer.older = run.older
    run.older = run.newer = null
  }
}
