import type { KvLayout } from "@uniprefill/model/KvLayout"
import { pagesFor } from "@uniprefill/units/Units"
import type { PrefixCache } from "./PrefixCache.ts"
import type { Request } from "./Request.ts"

/**
 * How many slabs requests hold and may come to hold: every row of the last known set kept (sets are nested, so each
 * selection shrinks it), what forked answers add, and the carries that are held at the same time.
 */
export class Demand {
  private readonly layout: KvLayout
  private readonly prefixes: PrefixCache
  private readonly maxRowsPerStep: number

  constructor(layout: KvLayout, prefixes: PrefixCache, maxRowsPerStep: number) {
    this.layout = layout
    this.prefixes = prefixes
    this.maxRowsPerStep = maxRowsPerStep
  }

  /** The most slabs that a request, with its forks, can hold at one time from here to its end. */
  worstCase(request: Request): number {
    return this.most(request, request.maxTokens - 1, request.maxTokens - 1)
  }

  /** The same to the end of its prefill and one page of decoding beyond. */
  prefillCase(request: Request): number {
    return this.most(request, this.reservedOutputs(request), request.progress.replayedOutputs)
  }

  /**
   * Slabs in a request's tables. During prefill, pages of windows that the cache holds too are left out: they do not come
   * free when the window moves on.
   */
  held(request: Request): number {
    let slabs = 0
    for (let t = 0; t < this.layout.tables.length; t++) slabs += this.heldIn(request, t)
    return slabs
  }

  /** What a request may come to need beyond what it holds and has reserved. */
  unreserved(request: Request): number {
    return Math.max(0, this.worstCase(request) - this.held(request) - request.holdings.reservedSlabs)
  }

  /** Slabs that come to be needed at the far end of a window as `given` slabs leave it at the near end. */
  ofMovedWindow(request: Request, t: number, given: number): number {
    const lacking = this.mostSlabs(request, t, this.reservedOutputs(request)) - this.heldIn(request, t)
    return Math.max(0, lacking) - Math.max(0, lacking - given)
  }

  /** Slabs that a request may need for its forks when it forks, and for a page of decoding of each. */
  ofForks(request: Request): number {
    return this.perFork(request, this.reservedOutputs(request))
  }

  /** Output rows that a reservation covers in each class. */
  private reservedOutputs(request: Request): number {
    return Math.min(request.maxTokens - 1, request.progress.replayedOutputs + this.layout.pageSize)
  }

  /** `outputRows`: output rows after the prompt; `replayed` of them pass prefill, carries included. */
  private most(request: Request, outputRows: number, replayed: number): number {
    const { tables } = this.layout
    let slabs = 0
    let heldCarries = 0
    for (let t = 0; t < tables.length; t++) {
      const table = tables[t]!
      const held = this.heldIn(request, t)
      if (table.kind === "carry") heldCarries += held
      else slabs += Math.max(held, this.mostSlabs(request, t, outputRows))
    }
    if (request.forks.length > 0) slabs += request.forks.length * this.perFork(request, outputRows)
    return slabs + Math.max(heldCarries, this.carries(request, outputRows, replayed))
  }

  /** While segment i is computed, the carry it reads and the carry it writes are held, and what is cached of carry 0. */
  private carries(request: Request, outputRows: number, replayed: number): number {
    if (!request.drops) return 0
    const kept = this.keptCarry(request, outputRows, replayed)
    let most = kept
    if (request.phase === "decode") return most
    const { segment } = request.progress
    let read = segment === 0 ? 0 : this.carrySlabs(request, segment - 1, replayed)
    for (let s = segment; s < this.layout.segments.length; s++) {
      const written = this.carrySlabs(request, s, replayed)
      most = Math.max(most, s === 1 ? Math.max(kept, read) + written : (s > 1 ? kept : 0) + read + written)
      read = written
    }
    return most
  }

  /** Slabs of carry 0 that a request holds on to after segment 0: its cached pages; all where output is cached too. */
  private keptCarry(request: Request, outputRows: number, replayed: number): number {
    const carry = this.layout.segments[0]!.carry
    if (carry < 0 || request.holdings.pageKeys.length === 0) return 0
    const { pageSize, tables } = this.layout
    const pages = request.holdings.keepsCarry
      ? pagesFor(request.progress.rowsOf(0) + outputRows, pageSize)
      : request.progress.segment === 0 && request.phase !== "decode"
        ? Math.floor((request.progress.rowsOf(0) + replayed) / pageSize)
        : request.holdings.cachedPages
    return pages * tables[carry]!.slabsPerPage
  }

  /** An answer beyond the first has a page of its own for the prompt's last rows, and its output. */
  private perFork(request: Request, outputRows: number): number {
    const { pageSize, tables } = this.layout
    const pages = pagesFor(outputRows, pageSize) + 1
    let slabs = 0
    for (const table of tables) {
      if (table.kind === "carry" && !(table.segment === 0 && request.holdings.keepsCarry)) continue
      const within = table.kind === "sliding" ? pagesFor(table.window, pageSize) + 2 : pages
      slabs += Math.min(pages, within) * table.slabsPerPage
    }
    return slabs
  }

  private heldIn(request: Request, t: number): number {
    const table = request.holdings.tables[t]!
    if (this.layout.tables[t]!.kind !== "sliding" || request.phase === "decode") return table.length
    return this.prefixes.owned(request, t)
  }

  private carrySlabs(request: Request, segment: number, replayed: number): number {
    const table = this.layout.segments[segment]!.carry
    if (table < 0) return 0
    return (
      pagesFor(request.progress.rowsOf(segment) + replayed, this.layout.pageSize) *
      this.layout.tables[table]!.slabsPerPage
    )
  }

  /** A sliding table that is filled chunk by chunk holds at most its window and one chunk. */
  private mostSlabs(request: Request, t: number, outputRows: number): number {
    const { pageSize, tables } = this.layout
    const { segment, kind, window, slabsPerPage } = tables[t]!
    const all = pagesFor(request.progress.rowsOf(segment) + outputRows, pageSize)
    if (kind !== "sliding") return all * slabsPerPage
    const freed = request.phase === "decode" ? request.holdings.freedPages[t]! : 0
    const within = pagesFor(window + this.maxRowsPerStep, pageSize) + 1
    return Math.min(all - freed, within) * slabsPerPage
  }
}
