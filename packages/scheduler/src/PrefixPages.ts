import type { KvLayout } from "@uniprefill/model/KvLayout"
import { IntList } from "./IntList.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
import { type CachedPage, type PageKey, PrefixCache } from "./PrefixCache.ts"
import type { Request } from "./Request.ts"
import type { SlabPool } from "./SlabPool.ts"
import { StateOperation, type StepPlan } from "./StepPlan.ts"

/** Tables whose content depends on the prefix alone. */
interface SharedTables {
  readonly whole: ReadonlyArray<number>
  readonly sliding: ReadonlyArray<number>
  readonly root: CachedPage
  /** Scratch: the slabs of one page of the whole tables. */
  readonly page: Array<number>
}

/** Hears what is cached and what no longer is, for those who route requests to where their prefixes are. */
export interface PrefixListener {
  /** Page number `page` of the request's prompt and output has been published under `key`, behind that of `parent`. */
  readonly stored: (request: Request, page: number, key: PageKey, parent: PageKey | null) => void
  readonly removed: (key: PageKey) => void
  /** Nothing is cached any more. */
  readonly cleared: () => void
}

/** A copy of a slot's recurrent states that a planned step makes. */
interface PlannedSnapshot {
  readonly step: number
  readonly request: Request
  /** The page that it belongs to. */
  readonly page: number
  readonly stateSlot: number
}

/**
 * Which pages of which prefixes are kept, found and handed on, and what the executor is told of it.
 *
 * Pages are published when the step that completed them has committed. In models with sliding windows or recurrent states
 * prefill can only resume where the window's pages and a copy of the states are kept: at a *resume point*, after every
 * `resumeEvery` rows and after a prompt's last full page. Chunks are cut there, and a hit is rounded down to one.
 */
export class PrefixPages {
  readonly cache = new PrefixCache()
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
  /** Requests whose states are to be copied before they go on. */
  private readonly unsaved: Array<Request> = []
  private readonly plannedSnapshots: Array<PlannedSnapshot> = []
  /** Pages with a copy of states, the oldest first. */
  private readonly snapshots: Array<CachedPage> = []
  private readonly found: Array<CachedPage> = []

  constructor(layout: KvLayout, pool: SlabPool, resumeEvery: number) {
    this.layout = layout
    this.pool = pool
    this.hasStates = layout.stateSlotBytes > 0
    this.resumePages = Math.max(1, Math.floor(resumeEvery / layout.pageSize))
    const tables = layout.tables.map((_, t) => t)
    const pick = (belongs: (t: number) => boolean): SharedTables => {
      const whole = tables.filter((t) => layout.tables[t]!.kind !== "sliding" && belongs(t))
      return {
        whole,
        sliding: tables.filter((t) => layout.tables[t]!.kind === "sliding" && belongs(t)),
        root: this.cache.root(),
        page: whole.flatMap((t) => new Array<number>(layout.tables[t]!.slabsPerPage).fill(-1)),
      }
    }
    this.ofDropping = pick((t) => layout.tables[t]!.segment === 0)
    this.ofDense = pick((t) => layout.tables[t]!.kind !== "carry")
  }

  /**
   * Cached pages that a prompt can start from, first page first; valid until the next call. Where no selection follows, its
   * last row is always computed.
   */
  find(request: Request): ReadonlyArray<CachedPage> {
    const { found } = this
    found.length = 0
    const shared = this.sharedTables(request)
    const rows = request.drops ? request.progress.prefillRows(0) : request.progress.prefillRows(0) - 1
    const most = Math.min(request.holdings.pageKeys.length, Math.floor(rows / this.layout.pageSize))
    let page: CachedPage | undefined = shared.root
    for (let p = 0; p < most; p++) {
      page = page.find(request.holdings.pageKeys.at(p)!)
      if (page === undefined) break
      found.push(page)
    }
    this.roundDown(shared)
    return found
  }

  /** What `find` found, up to the resume point before its end. */
  shorten(request: Request): ReadonlyArray<CachedPage> {
    this.found.pop()
    this.roundDown(this.sharedTables(request))
    return this.found
  }

  /** The pages that `find` or `shorten` has just returned become the front of the request's tables. */
  adopt(request: Request): void {
    const { found, pool } = this
    const shared = this.sharedTables(request)
    for (const page of found) {
      this.cache.acquire(page)
      request.holdings.cached.push(page)
      pool.share(page.slabs)
      let at = 0
      for (const t of shared.whole) {
        const { slabsPerPage } = this.layout.tables[t]!
        request.holdings.tables[t]!.pushAll(page.slabs, at, at + slabsPerPage)
        at += slabsPerPage
      }
    }
    if (found.length === 0) return
    for (const [w, t] of shared.sliding.entries()) {
      const first = this.firstPage(t, found.length)
      request.holdings.freedPages[t] = first
      for (let p = first; p < found.length; p++) {
        const slabs = found[p]!.windows[w]!
        pool.share(slabs)
        request.holdings.tables[t]!.pushAll(slabs)
      }
    }
  }

  /** Tells the executor of what `adopt` found. The slot is open by then, with its states at zero. */
  map(request: Request, plan: StepPlan): void {
    const pages = request.holdings.cached.length
    if (pages === 0) return
    const { whole, sliding } = this.sharedTables(request)
    for (const t of whole) listSlabs(plan.maps, request.slot, t, request.holdings.tables[t]!, 0)
    for (const t of sliding) {
      if (request.holdings.freedPages[t]! > 0) plan.windowFrees.push3(request.slot, t, request.holdings.freedPages[t]!)
      listSlabs(plan.maps, request.slot, t, request.holdings.tables[t]!, 0)
    }
    if (this.hasStates)
      plan.states.push3(request.slot, StateOperation.restore, request.holdings.cached[pages - 1]!.stateSlot)
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
    const shared = this.sharedTables(request)
    const pages = Math.min(Math.floor(rows / pageSize), request.holdings.pageKeys.length)
    let spare = -1
    for (let p = request.holdings.cached.length; p < pages; p++) {
      const parent = p === 0 ? shared.root : request.holdings.cached[p - 1]!
      const key = request.holdings.pageKeys.at(p)!
      const other = parent.find(key)
      if (other !== undefined) {
        if (other.users === 0) {
          if (spare < 0) spare = Math.max(0, spareSlabs(request))
          if (other.slabCount > spare) return 0
          spare -= other.slabCount
        }
        this.cache.acquire(other)
        request.holdings.cached.push(other)
        continue
      }
      const slabs = shared.page
      let at = 0
      for (let i = 0; i < shared.whole.length; i++) at = this.copyPage(request, shared.whole[i]!, p, slabs, at)
      // Pages that forked requests share stay theirs: they do not all use what would be published.
      if (this.isShared(slabs)) return 0
      this.retainSlabs(slabs)
      request.holdings.cached.push(this.cache.publish(parent, key, slabs.slice(), shared.sliding.length))
      this.listener?.stored(request, p, key, p === 0 ? null : parent.key)
    }
    if (rows !== pages * pageSize || request.holdings.cached.length < pages || !this.isResumePoint(request, rows))
      return 0
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
    request.flight.savesAt = rows
    this.unsaved.push(request)
  }

  /** Copies the states that `computed` named; `takeStateSlot` answers −1 where there is no room for one more. */
  saveStates(plan: StepPlan, takeStateSlot: () => number): void {
    if (this.unsaved.length === 0) return
    for (let i = 0; i < this.unsaved.length; i++) {
      const request = this.unsaved[i]!
      const rows = request.flight.savesAt
      request.flight.savesAt = 0
      if (rows === 0 || request.flight.leaving || request.slot < 0) continue
      const stateSlot = takeStateSlot()
      if (stateSlot < 0) continue
      plan.states.push3(request.slot, StateOperation.snapshot, stateSlot)
      request.flight.usedBy(plan.stepId)
      const page = rows / this.layout.pageSize - 1
      this.plannedSnapshots.push({ step: plan.stepId, request, page, stateSlot })
    }
    this.unsaved.length = 0
  }

  /** The copies that steps up to `stepId` made belong to their pages; gives back those whose page is not cached. */
  savedStates(stepId: number, giveBack: (stateSlot: number) => void): void {
    while (this.plannedSnapshots.length > 0 && this.plannedSnapshots[0]!.step <= stepId) {
      const { request, page, stateSlot } = this.plannedSnapshots.shift()!
      const cached = request.holdings.cached[page]
      if (cached === undefined || cached.stateSlot >= 0) giveBack(stateSlot)
      else {
        this.cache.addSnapshot(cached, stateSlot)
        this.snapshots.push(cached)
      }
    }
  }

  /** The state slot of the oldest copy that no request uses, which is lost; −1 when there is none. */
  forgetSnapshot(): number {
    const at = this.snapshots.findIndex((page) => page.users === 0)
    if (at < 0) return -1
    const { stateSlot } = this.snapshots[at]!
    this.snapshots[at]!.stateSlot = -1
    this.snapshots.splice(at, 1)
    return stateSlot
  }

  /** Whether the next plan has something to tell of the cache or the states. */
  get hasNews(): boolean {
    return this.pendingRetains.length > 0 || this.unsaved.length > 0
  }

  /** What was published since the last plan is retained by this one. */
  retain(plan: StepPlan): void {
    plan.retains.append(this.pendingRetains)
    this.pendingRetains.clear()
  }

  /** Gives up the page longest unused. Returns the state slot that comes free with it, −1 for none. */
  evict(plan: StepPlan): number {
    const page = this.cache.evict()
    if (page === undefined) return -1
    this.listener?.removed(page.key)
    plan.evictions.pushList(page.slabs)
    for (let w = 0; w < page.windows.length; w++)
      if (page.windows[w] !== null) plan.evictions.pushList(page.windows[w]!)
    return this.forget(page)
  }

  /** Forgets every cached page, as the executor has, after a step failed and every slot was given up. */
  reset(giveBack: (stateSlot: number) => void): void {
    this.pendingRetains.clear()
    this.unsaved.length = 0
    for (const { stateSlot } of this.plannedSnapshots.splice(0)) giveBack(stateSlot)
    for (let page = this.cache.evict(); page !== undefined; page = this.cache.evict()) {
      const stateSlot = this.forget(page)
      if (stateSlot >= 0) giveBack(stateSlot)
    }
    this.listener?.cleared()
    if (this.cache.slabs > 0)
      throw new InvariantViolation("no page is in use once every slot is given up", { slabs: this.cache.slabs })
  }

  /** An evicted page's slabs are given up. Returns the state slot that comes free with it, −1 for none. */
  private forget(page: CachedPage): number {
    this.pool.drop(page.slabs)
    for (let w = 0; w < page.windows.length; w++) if (page.windows[w] !== null) this.pool.drop(page.windows[w]!)
    const { stateSlot } = page
    if (stateSlot >= 0) this.snapshots.splice(this.snapshots.indexOf(page), 1)
    return stateSlot
  }

  private roundDown(shared: SharedTables): void {
    if (!this.hasStates && shared.sliding.length === 0) return
    while (this.found.length > 0 && !this.canResume(this.found, shared)) this.found.pop()
  }

  private canResume(found: ReadonlyArray<CachedPage>, shared: SharedTables): boolean {
    if (this.hasStates && found.at(-1)!.stateSlot < 0) return false
    for (const [w, t] of shared.sliding.entries()) {
      for (let p = this.firstPage(t, found.length); p < found.length; p++)
        if (found[p]!.windows[w] === null) return false
    }
    return true
  }

  /** Keeps the pages that windows need to go on after `pages` pages, at most `spare` slabs; returns how many. */
  private keepWindows(request: Request, pages: number, shared: SharedTables, spare: number): number {
    let kept = 0
    for (const [w, t] of shared.sliding.entries()) {
      for (let p = this.firstPage(t, pages); p < pages; p++) {
        const page = request.holdings.cached[p]!
        if (page.windows[w] !== null || p < request.holdings.freedPages[t]!) continue
        const slabs = new Array<number>(this.layout.tables[t]!.slabsPerPage).fill(-1)
        this.copyPage(request, t, p, slabs, 0)
        if (kept + slabs.length > spare || this.isShared(slabs)) return kept
        this.retainSlabs(slabs)
        this.cache.addWindow(page, w, slabs)
        kept += slabs.length
      }
    }
    return kept
  }

  private isShared(slabs: ReadonlyArray<number>): boolean {
    for (let i = 0; i < slabs.length; i++) if (this.pool.holdersOf(slabs[i]!) > 1) return true
    return false
  }

  private retainSlabs(slabs: ReadonlyArray<number>): void {
    this.pool.retain(slabs)
    this.pendingRetains.pushList(slabs)
  }

  /** Puts the slabs of one page of a table into `slabs` from `at` on, and returns where they end. */
  private copyPage(request: Request, t: number, page: number, slabs: Array<number>, at: number): number {
    const { holdings } = request
    const { slabsPerPage } = this.layout.tables[t]!
    const first = (page - holdings.freedPages[t]!) * slabsPerPage
    const { data, length } = holdings.tables[t]!
    if (first < 0 || first + slabsPerPage > length) {
      throw new InvariantViolation("a page is published once it is held", { id: request.id, table: t, page })
    }
    for (let k = 0; k < slabsPerPage; k++) slabs[at + k] = data[first + k]!
    return at + slabsPerPage
  }

  /** The first page of a sliding table that the row after `pages` pages sees. */
  private firstPage(t: number, pages: number): number {
    const { pageSize, tables } = this.layout
    return Math.floor(Math.max(0, pages * pageSize - tables[t]!.window + 1) / pageSize)
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
