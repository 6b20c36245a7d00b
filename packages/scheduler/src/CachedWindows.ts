import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { Holdings } from "./Holdings.ts"
import type { PageRun, PrefixTree } from "./PrefixTree.ts"
import type { Request } from "./Request.ts"

/** A table gives a window up that a step in flight may still read. */
interface WindowInFlight {
  readonly afterStep: number
  readonly run: PageRun
  readonly window: number
}

/**
 * Who reads the windows of cached pages.
 *
 * Prefill resumes only where its windows are cached, so they are kept at resume points. Requests that use such a page for their prefix
 * go on to rows that no longer see its window. From then on the cache alone holds it, and it can be evicted although its page is in use:
 * otherwise a request whose prefix has many resume points would hold more than it was admitted with, and give way to itself for ever.
 *
 * Pages with windows are runs of their own. `sliding`: sliding tables that are shared, in the order of a run's windows.
 */
export class CachedWindows {
  private readonly layout: KvLayout
  private readonly cache: PrefixTree
  private committedStep = 0
  private readonly inFlight: Array<WindowInFlight> = []

  constructor(layout: KvLayout, cache: PrefixTree) {
    this.layout = layout
    this.cache = cache
  }

  /** The first page of a sliding table that the row after `pages` pages sees. */
  firstPage(t: number, pages: number): number {
    const { pageSize, tables } = this.layout
    return Math.floor(Math.max(0, pages * pageSize - tables[t]!.window + 1) / pageSize)
  }

  /** Whether every window that the row after a prefix sees is cached. */
  areCached(prefix: ReadonlyArray<PageRun>, sliding: ReadonlyArray<number>): boolean {
    for (const [w, t] of sliding.entries()) {
      for (let p = this.firstPage(t, prefix.length); p < prefix.length; p++) {
        if (prefix[p]!.windows[w] === null) return false
      }
    }
    return true
  }

  /** Slabs of those windows that nobody reads now. Requires {@link areCached}. */
  unread(prefix: ReadonlyArray<PageRun>, sliding: ReadonlyArray<number>): number {
    let slabs = 0
    for (const [w, t] of sliding.entries()) {
      for (let p = this.firstPage(t, prefix.length); p < prefix.length; p++) {
        const window = prefix[p]!.windows[w]!
        if (window.readers === 0) slabs += window.slabs.length
      }
    }
    return slabs
  }

  /** Those windows become a request's own. Requires {@link areCached}. */
  adopt(prefix: ReadonlyArray<PageRun>, sliding: ReadonlyArray<number>, { tables, freedPages }: Holdings): void {
    for (const [w, t] of sliding.entries()) {
      const first = this.firstPage(t, prefix.length)
      freedPages[t] = first
      for (let p = first; p < prefix.length; p++) {
        const { slabs } = prefix[p]!.windows[w]!
        tables[t]!.pushRun(slabs, 0, slabs.length)
        this.cache.read(prefix[p]!, w)
      }
    }
  }

  /** One more request has a table that is a copy of this one's. */
  share({ holdings }: Request, t: number, window: number): void {
    for (const run of this.readIn(holdings, t, window, 0, holdings.tables[t]!.length)) this.cache.read(run, window)
  }

  /** Slabs first … end − 1 of a sliding table are given up: windows of the cache lose a reader with the last step that may read them. */
  giveUp({ holdings, flight }: Request, t: number, window: number, first: number, end: number): void {
    const afterStep = flight.lastStep
    for (const run of this.readIn(holdings, t, window, first, end)) {
      if (afterStep <= this.committedStep) this.cache.unread(run, window)
      else this.inFlight.push({ afterStep, run, window })
    }
  }

  /** Steps up to `stepId` have committed. */
  committed(stepId: number): void {
    this.committedStep = stepId
    const { inFlight } = this
    if (inFlight.length === 0) return
    let kept = 0
    for (const one of inFlight) {
      if (one.afterStep <= stepId) this.cache.unread(one.run, one.window)
      else inFlight[kept++] = one
    }
    inFlight.length = kept
  }

  /** Readers of a window that are steps in flight, and no longer tables. */
  inFlightOf(run: PageRun, window: number): number {
    return this.inFlight.filter((one) => one.run === run && one.window === window).length
  }

  /** The pages whose windows slabs first … end − 1 of a table are. */
  private *readIn(holdings: Holdings, t: number, window: number, first: number, end: number): Generator<PageRun> {
    const { slabsPerPage } = this.layout.tables[t]!
    const { data } = holdings.tables[t]!
    let from = (holdings.cachedPages - holdings.freedPages[t]! - 1) * slabsPerPage
    for (let run = holdings.lastRun; from >= first; run = run!.parent) {
      if (from < end && run!.windows[window]?.slabs[0] === data[from]) yield run!
      from -= slabsPerPage
    }
  }
}
