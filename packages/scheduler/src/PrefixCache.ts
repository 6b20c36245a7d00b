import type { KvLayout } from "@uniprefill/model/KvLayout"
import { ceilDiv } from "@uniprefill/units/Units"
import { IntList } from "./IntList.ts"
import { CachedWindows } from "./CachedWindows.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
import { listSlabs } from "./Holdings.ts"
import { type PageKey, type PageRun, PrefixTree } from "./PrefixTree.ts"
import type { Request } from "./Request.ts"
import type { SlabPool } from "./SlabPool.ts"
import { runOfPage, StateSnapshots } from "./StateSnapshots.ts"
import { StateOperation, type StepPlan } from "./StepPlan.ts"

/** Tables whose content depends on the prefix alone. */
interface SharedTables {
  readonly whole: ReadonlyArray<number>
  /** By table: where its slabs are among those of a page of the whole tables, or which of the sliding ones it is; −1 for others. */
  readonly places: ReadonlyArray<number>
  readonly sliding: ReadonlyArray<number>
  readonly root: PageRun
  /** Nothing belongs to single pages: a run may have many. */
  readonly hasLongRuns: boolean
  /** Of the whole tables together. */
  readonly slabsPerPage: number
}

/** Hears what is cached and what no longer is, for those who route requests to where their prefixes are. */
export interface PrefixListener {
  /** Page number `page` of the request's prompt and output has been published under `key`, behind that of `parent`. */
  readonly stored: (request: Request, page: number, key: PageKey, parent: PageKey | null) => void
  readonly removed: (key: PageKey) => void
  /** Nothing is cached any more. */
  readonly cleared: () => void
}

/**
 * Which pages of which prefixes are kept, found and handed on, and what the executor is told of it.
 *
 * Pages are published when the step that completed them has committed. In models with sliding windows or recurrent states
 * prefill can only resume where the window's pages and a copy of the states are kept: at a *resume point*, after every
 * `resumeEvery` rows and after a prompt's last full page. Chunks are cut there, and a hit is rounded down to one.
 */
export class PrefixCache {
  readonly tree = new PrefixTree()
  readonly windows: CachedWindows
  readonly states: StateSnapshots
  listener: PrefixListener | null = null
  /** Tokens looked up in the cache, and found there. */
  queries = 0
  hits = 0
  private readonly layout: KvLayout
  private readonly pool: SlabPool
  private readonly hasStates: boolean
  /** Pages between resume points. */
  private readonly resumePages: number
  private readonly ofDropping: SharedTables
  private readonly ofDense: SharedTables
  private readonly pendingRetains = new IntList()
  /** What was found last: runs, pages of the last of them, pages in all. */
  private readonly found: Array<PageRun> = []
  private foundInLast = 0
  /** What `ownSlabs` answers, used again. */
  private readonly own: Array<readonly [number, number]> = []
  private foundPages = 0

  constructor(layout: KvLayout, pool: SlabPool, resumeEvery: number) {
    this.layout = layout
    this.pool = pool
    this.windows = new CachedWindows(layout, this.tree)
    this.states = new StateSnapshots(layout, this.tree)
    this.hasStates = layout.stateSlotBytes > 0
    this.resumePages = Math.max(1, Math.floor(resumeEvery / layout.pageSize))
    const tables = layout.tables.map((_, t) => t)
    const pick = (belongs: (t: number) => boolean): SharedTables => {
      const whole = tables.filter((t) => layout.tables[t]!.kind !== "sliding" && belongs(t))
      const sliding = tables.filter((t) => layout.tables[t]!.kind === "sliding" && belongs(t))
      const before = (t: number) =>
        whole.slice(0, whole.indexOf(t)).reduce((sum, one) => sum + layout.tables[one]!.slabsPerPage, 0)
      return {
        whole,
        places: tables.map((t) => (whole.includes(t) ? before(t) : sliding.indexOf(t))),
        sliding,
        root: this.tree.root(),
        hasLongRuns: sliding.length === 0 && !this.hasStates,
        slabsPerPage: whole.reduce((sum, t) => sum + layout.tables[t]!.slabsPerPage, 0),
      }
    }
    this.ofDropping = pick((t) => layout.tables[t]!.segment === 0)
    this.ofDense = pick((t) => layout.tables[t]!.kind !== "carry")
  }

  /**
   * How many cached pages a prompt can start from; which ones is known until the next call. Where no selection follows, its
   * last row is always computed.
   */
  find(request: Request): number {
    const { found } = this
    found.length = 0
    const shared = this.sharedTables(request)
    const { pageKeys } = request.holdings
    const rows = request.drops ? request.progress.prefillRows(0) : request.progress.prefillRows(0) - 1
    const most = Math.min(pageKeys.length, Math.floor(rows / this.layout.pageSize))
    let pages = 0
    for (let run: PageRun | undefined = shared.root; pages < most;) {
      run = run.find(pageKeys.at(pages)!)
      if (run === undefined) break
      found.push(run)
      this.foundInLast = run.matches(pageKeys, pages, most - pages)
      pages += this.foundInLast
      if (this.foundInLast < run.pages) break
    }
    this.foundPages = pages
    this.roundDown(shared)
    return this.foundPages
  }

  /** How many of the pages that `find` found there are up to the resume point before their end. */
  shorten(request: Request): number {
    this.dropLast()
    this.roundDown(this.sharedTables(request))
    return this.foundPages
  }

  /** Slabs that nobody uses now and that using what was found keeps from being reused, less those that it saves. */
  foundCost(request: Request): number {
    const { found } = this
    let more = this.windows.unread(found, this.sharedTables(request).sliding)
    for (let i = 0; i < found.length; i++) {
      const run = found[i]!
      const slabs = run.slabsBefore(i === found.length - 1 ? this.foundInLast : run.pages)
      if (run.users > 0) more -= slabs
    }
    return more
  }

  /** The pages that `find` or `shorten` has just returned become the front of the request's tables. */
  adopt(request: Request): void {
    const { found, layout } = this
    const { holdings } = request
    if (found.length === 0) return
    const shared = this.sharedTables(request)
    const last = found.length - 1
    if (this.foundInLast < found[last]!.pages) found[last] = this.tree.split(found[last]!, this.foundInLast)
    for (let i = 0; i < found.length; i++) {
      const run = found[i]!
      const { data, length } = run.slabs
      this.tree.acquire(run)
      for (const t of shared.whole) {
        const { slabsPerPage } = layout.tables[t]!
        const table = holdings.tables[t]!
        for (let at = shared.places[t]!; at < length; at += shared.slabsPerPage)
          table.pushRun(data, at, at + slabsPerPage)
      }
    }
    holdings.lastRun = found[last]!
    holdings.cachedPages = this.foundPages
    this.windows.adopt(found, shared.sliding, holdings)
  }

  /** Tells the executor of what `adopt` found. The slot is open by then, with its states at zero. */
  map(request: Request, plan: StepPlan): void {
    if (request.holdings.cachedPages === 0) return
    const { whole, sliding } = this.sharedTables(request)
    for (const t of whole) listSlabs(plan.maps, request.slot, t, request.holdings.tables[t]!, 0)
    for (const t of sliding) {
      if (request.holdings.freedPages[t]! > 0) plan.windowFrees.push3(request.slot, t, request.holdings.freedPages[t]!)
      listSlabs(plan.maps, request.slot, t, request.holdings.tables[t]!, 0)
    }
    if (this.hasStates) plan.states.push3(request.slot, StateOperation.restore, request.holdings.lastRun!.stateSlot)
  }

  /**
   * Publishes the pages of a request whose first `rows` rows of segment 0 are computed and committed. Where another request
   * was first, its page counts as the request's own prefix, so that the pages behind it can follow, and the request reads
   * its own copy. Such pages, and those of windows, are kept from being reused: at most `spareSlabs` of them.
   *
   * Returns how many slabs of windows are kept.
   */
  publish(request: Request, rows: number, spareSlabs: (request: Request) => number): number {
    const { pageSize } = this.layout
    const { tree } = this
    const { holdings } = request
    const { pageKeys } = holdings
    const shared = this.sharedTables(request)
    const pages = Math.min(Math.floor(rows / pageSize), pageKeys.length)
    let spare = -1
    /** What this call has made or made longer: nothing is behind it, and nobody else uses it. */
    let own: PageRun | null = null
    while (holdings.cachedPages < pages) {
      const page = holdings.cachedPages
      const before = holdings.lastRun ?? shared.root
      const key = pageKeys.at(page)!
      const other = before === own ? undefined : before.find(key)
      if (other !== undefined) {
        let used = other.matches(pageKeys, page, pages - page)
        if (other.users === 0) {
          if (spare < 0) spare = Math.max(0, spareSlabs(request))
          const each = other.slabs.length / other.pages
          // A page that has windows alone, and not these, has no slabs.
          if (each > 0) used = Math.min(used, Math.floor(spare / each))
          if (used === 0) return 0
          spare -= used * each
        }
        const run = used < other.pages ? tree.split(other, used) : other
        tree.acquire(run)
        holdings.lastRun = run
        holdings.cachedPages += used
        continue
      }
      // Behind what nobody else has are no pages of others: all that follow are one run, but where each is looked at.
      const end = shared.hasLongRuns && !holdings.isForked ? pages : page + 1
      const { pendingRetains } = this
      const at = pendingRetains.extend((end - page) * shared.slabsPerPage)
      for (let i = 0; i < shared.whole.length; i++) this.copyPages(request, shared, shared.whole[i]!, page, end, at)
      // Pages that forked requests share stay theirs: they do not all use what would be published.
      if (holdings.isForked && this.isShared(pendingRetains.data, at, pendingRetains.length)) {
        pendingRetains.length = at
        return 0
      }
      const extend: boolean =
        shared.hasLongRuns && (before === own || (tree.canExtend(before) && this.reads(request, shared)))
      const most = shared.hasLongRuns ? pageKeys.length - page : 1
      own = extend ? before : tree.start(before, key, shared.sliding.length, most * shared.slabsPerPage)
      tree.append(own, pageKeys, page, end, pendingRetains, at)
      holdings.lastRun = own
      holdings.cachedPages = end
      if (this.listener !== null)
        for (let p = page; p < end; p++)
          this.listener.stored(request, p, pageKeys.at(p)!, p === 0 ? null : pageKeys.at(p - 1)!)
    }
    if (rows !== pages * pageSize || holdings.cachedPages < pages || !this.isResumePoint(request, rows)) return 0
    // Decode makes no copies of states, without which windows are of no use.
    if (shared.sliding.length === 0 || (this.hasStates && request.phase === "decode")) return 0
    return this.keepWindows(request, pages, shared, spare < 0 ? spareSlabs(request) : spare)
  }

  /** Rows that a request may go on from `row` in segment 0 before its chunk is cut; Infinity where nothing cuts it. */
  rowsToCut(request: Request, row: number): number {
    const { pageSize } = this.layout
    if (!this.hasResumePoints(request)) return Number.POSITIVE_INFINITY
    const every = this.resumePages * pageSize
    const last = this.lastResumePoint(request)
    const next = (Math.floor(row / every) + 1) * every
    if (row < last) return Math.min(next, last) - row
    return Number.POSITIVE_INFINITY
  }

  /** A chunk of the request ends at `rows`: its states are copied by the next plan, if prefill may resume there. */
  computed(request: Request, rows: number): void {
    if (!this.hasStates || !this.isResumePoint(request, rows)) return
    this.states.want(request, rows)
  }

  /** Whether the next plan has something to tell of the cache or the states. */
  get hasNews(): boolean {
    return this.pendingRetains.length > 0 || this.states.hasNews
  }

  /** What was published since the last plan is retained by this one. */
  retain(plan: StepPlan): void {
    plan.retains.append(this.pendingRetains)
    this.pendingRetains.clear()
  }

  /**
   * Gives up pages of the run longest unused, as many as have so many slabs, or where there is none a window that nobody reads.
   * Returns the state slot that comes free with them, −1 for none.
   */
  evict(plan: StepPlan, slabs: number): number {
    const run = this.tree.leastRecent
    if (run === null) {
      this.evictWindow(plan)
      return -1
    }
    // A page that has windows alone is a run of its own.
    const pages = run.pages === 1 ? 1 : Math.min(run.pages, ceilDiv(slabs, run.slabsBefore(1)))
    if (this.listener !== null)
      for (let page = run.pages - 1; page >= run.pages - pages; page--) this.listener.removed(run.keys[page]!)
    return this.forget(run, pages, plan.evictions)
  }

  /** Every cached page is in use: gives up a window that its users have passed. */
  private evictWindow(plan: StepPlan): void {
    const run = this.tree.firstPassed
    if (run === null) return
    const w = run.unreadWindow
    const { slabs } = run.windows[w]!
    plan.evictions.pushRun(slabs, 0, slabs.length)
    this.pool.release(slabs, 0, slabs.length, 0, 0)
    this.tree.evictWindow(run, w)
  }

  /** Forgets every cached page, as the executor has, after a step failed and every slot was given up. */
  reset(giveBack: (stateSlot: number) => void): void {
    this.pendingRetains.clear()
    this.states.reset(giveBack)
    const gone = new IntList()
    for (let run = this.tree.leastRecent; run !== null; run = this.tree.leastRecent) {
      const stateSlot = this.forget(run, run.pages, gone)
      if (stateSlot >= 0) giveBack(stateSlot)
    }
    this.listener?.cleared()
    if (this.tree.slabs > 0)
      throw new InvariantViolation("no page is in use once every slot is given up", { slabs: this.tree.slabs })
  }

  /**
   * The last pages of a run are evicted, the last one first: their slabs are given up, and added to a list. Returns the state slot
   * that comes free with them, −1 for none.
   */
  private forget(run: PageRun, pages: number, slabs: IntList): number {
    const at = slabs.length
    const each = run.slabsBefore(1)
    for (let end = run.slabs.length, left = pages; left > 0; left--, end -= each)
      slabs.pushRun(run.slabs.data, end - each, end)
    for (let w = 0; w < run.windows.length; w++) {
      const window = run.windows[w]!
      if (window !== null) slabs.pushRun(window.slabs, 0, window.slabs.length)
    }
    // Nobody uses them: no step in flight touches their slabs, and no table has them.
    this.pool.release(slabs.data, at, slabs.length, 0, at)
    this.tree.evict(pages)
    const { stateSlot } = run
    if (stateSlot >= 0) this.states.evicted(run)
    return stateSlot
  }

  private roundDown(shared: SharedTables): void {
    if (shared.hasLongRuns) return
    while (this.found.length > 0 && !this.canResume(this.found, shared)) this.dropLast()
  }

  /** Of what was found, all pages but the last one. */
  private dropLast(): void {
    const { found } = this
    this.foundPages--
    if (--this.foundInLast > 0) return
    found.pop()
    if (found.length > 0) this.foundInLast = found[found.length - 1]!.pages
  }

  /** `found`: runs of one page each. */
  private canResume(found: ReadonlyArray<PageRun>, shared: SharedTables): boolean {
    if (this.hasStates && found.at(-1)!.stateSlot < 0) return false
    return this.windows.areCached(found, shared.sliding)
  }

  /** Keeps the pages that windows need to go on after `pages` pages, at most `spare` slabs; returns how many. */
  private keepWindows(request: Request, pages: number, shared: SharedTables, spare: number): number {
    let kept = 0
    for (const [w, t] of shared.sliding.entries()) {
      for (let p = this.windows.firstPage(t, pages); p < pages; p++) {
        const run = runOfPage(request.holdings, p)
        if (run.windows[w] !== null || p < request.holdings.freedPages[t]!) continue
        const from = this.firstSlab(request, t, p, p + 1)
        const slabs = request.holdings.tables[t]!.data.slice(from, from + this.layout.tables[t]!.slabsPerPage)
        if (kept + slabs.length > spare || this.isShared(slabs, 0, slabs.length)) return kept
        this.pendingRetains.pushRun(slabs, 0, slabs.length)
        this.tree.addWindow(run, w, slabs)
        kept += slabs.length
      }
    }
    return kept
  }

  /**
   * Which of slabs first … end − 1 of a table are of pages of the request's prefix, but its own and not the cache's: another
   * request was first to publish them, or the window is not kept. `[from, to]` of each run, in order; valid until the next call.
   */
  ownSlabs(request: Request, tableIndex: number, first: number, end: number): ReadonlyArray<readonly [number, number]> {
    const { own } = this
    const { holdings } = request
    if (own.length > 0) own.length = 0
    const place = this.sharedTables(request).places[tableIndex]!
    if (place < 0) return own
    const { kind, slabsPerPage } = this.layout.tables[tableIndex]!
    const { data } = holdings.tables[tableIndex]!
    const freed = holdings.freedPages[tableIndex]!
    let to = (holdings.cachedPages - freed) * slabsPerPage
    for (let run = holdings.lastRun; to > first; run = run!.parent) {
      const from = to - run!.pages * slabsPerPage
      const slab = kind === "sliding" ? run!.windows[place]?.slabs[0] : run!.slabs.data[place]
      if (from < end && data[from] !== slab) own.push([Math.max(from, first), Math.min(to, end)])
      to = from
    }
    return own.reverse()
  }

  /** Slabs first … end − 1 of a table are given up: what the cache has of them may become idle. */
  giveUp(request: Request, tableIndex: number, first: number, end: number): void {
    if (this.layout.tables[tableIndex]!.kind !== "sliding") return
    this.windows.giveUp(request, tableIndex, this.sharedTables(request).places[tableIndex]!, first, end)
  }

  /** A fork has a copy of a table. */
  share(leader: Request, tableIndex: number): void {
    const place = this.sharedTables(leader).places[tableIndex]!
    if (place >= 0 && this.layout.tables[tableIndex]!.kind === "sliding") this.windows.share(leader, tableIndex, place)
  }

  /** Whether the tables have the slabs of the prefix's last run, not copies of their own: all of a run is one or the other. */
  private reads({ holdings }: Request, { whole }: SharedTables): boolean {
    const run = holdings.lastRun!
    const first = (holdings.cachedPages - run.pages) * this.layout.tables[whole[0]!]!.slabsPerPage
    return holdings.tables[whole[0]!]!.data[first] === run.slabs.data[0]
  }

  /** Slabs that a table has of the pages of the request's prefix, its own or the cache's: the first ones. */
  slabsOfPrefix(request: Request, tableIndex: number): number {
    if (this.sharedTables(request).places[tableIndex]! < 0) return 0
    const { cachedPages, freedPages, tables } = request.holdings
    const pages = Math.max(0, cachedPages - freedPages[tableIndex]!)
    return Math.min(tables[tableIndex]!.length, pages * this.layout.tables[tableIndex]!.slabsPerPage)
  }

  /** Slabs of a table that are not the cache's. */
  owned(request: Request, tableIndex: number): number {
    const { length } = request.holdings.tables[tableIndex]!
    const prefix = this.slabsOfPrefix(request, tableIndex)
    let owned = length - prefix
    for (const [from, to] of this.ownSlabs(request, tableIndex, 0, prefix)) owned += to - from
    return owned
  }

  private isShared(slabs: Int32Array, first: number, end: number): boolean {
    for (let i = first; i < end; i++) if (this.pool.othersOf(slabs[i]!) > 0) return true
    return false
  }

  /** Puts a table's slabs of pages `page` … `end` − 1 into what is retained next, to those of the other tables from `at` on. */
  private copyPages(request: Request, shared: SharedTables, t: number, page: number, end: number, at: number): void {
    const { slabsPerPage } = this.layout.tables[t]!
    const { data } = request.holdings.tables[t]!
    const to = this.pendingRetains.data
    let from = this.firstSlab(request, t, page, end)
    for (let place = at + shared.places[t]!; page < end; page++, place += shared.slabsPerPage)
      for (let k = 0; k < slabsPerPage; k++) to[place + k] = data[from++]!
  }

  /** Where a table has the slabs of a page that is held, and of those behind it up to `end`. */
  private firstSlab({ id, holdings }: Request, t: number, page: number, end: number): number {
    const { slabsPerPage } = this.layout.tables[t]!
    const freed = holdings.freedPages[t]!
    if (page < freed || (end - freed) * slabsPerPage > holdings.tables[t]!.length) {
      throw new InvariantViolation("a page is published once it is held", { id, table: t, page, end })
    }
    return (page - freed) * slabsPerPage
  }

  private hasResumePoints(request: Request): boolean {
    return request.holdings.pageKeys.length > 0 && (this.hasStates || this.sharedTables(request).sliding.length > 0)
  }

  /** End of the last full page whose key is known. */
  private lastResumePoint(request: Request): number {
    const { pageSize } = this.layout
    return Math.min(request.holdings.pageKeys.length, Math.floor(request.progress.prefillRows(0) / pageSize)) * pageSize
  }

  private isResumePoint(request: Request, rows: number): boolean {
    if (!this.hasResumePoints(request) || rows % this.layout.pageSize !== 0) return false
    return rows === this.lastResumePoint(request) || rows % (this.resumePages * this.layout.pageSize) === 0
  }

  private sharedTables(request: Request): SharedTables {
    return request.drops ? this.ofDropping : this.ofDense
  }
}
