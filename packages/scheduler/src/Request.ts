import type { KvLayout } from "@uniprefill/model/KvLayout"
import { IntList } from "./IntList.ts"
import type { CachedPage, PageKey } from "./PrefixCache.ts"
import type { RequestView } from "./RequestView.ts"
import type { Tenant } from "./Tenants.ts"

/**
 * - `waiting`: in the queue, owns nothing; a preempted request waits again, its selections and output kept;
 * - `prefill`: has a slot; `segment` and `computedRows` say how far it is;
 * - `fork`: another answer to the prompt of `leader`, with a slot while that has one, until the leader's prefill is done;
 * - `decode`: one row a step;
 * - `finished`: owns nothing.
 */
export type RequestPhase = "waiting" | "prefill" | "fork" | "decode" | "finished"

export type FinishReason = "stop" | "length" | "abort" | "error"

/** What is known of a request when it is submitted. Lengths only, never text. */
export interface Submission {
  /** Prompt tokens, ≥ 1. */
  readonly promptLength: number
  /** Output tokens at most; undefined for as many as fit. */
  readonly maxTokens?: number | undefined
  /** Answers to the same prompt, which is computed once; 1 where nothing is said. */
  readonly answers?: number | undefined
  /** False: serve dense whatever the schedule. */
  readonly drops: boolean
  /** Lower is sooner; used by policies that look at it. */
  readonly priority?: number | undefined
  /** Whoever it counts for where a policy shares fairly; a name of its own or "". */
  readonly tenant?: string | undefined
  /** When the first token is due, on the clock of `now`; used by policies that look at it. */
  readonly deadlineMicros?: number | undefined
  /**
   * Chained hash of each full page of the prompt, first page first: of the model, the tenant and every token up to the
   * page's end. Undefined: nothing of this request is cached or found in the cache.
   */
  readonly pageKeys?: ReadonlyArray<PageKey> | undefined
}

/** A slot's page tables. */
export interface PageTables {
  /** Slabs of each table, page after page, pages given back at the front left out. */
  readonly slabs: ReadonlyArray<IntList>
  /** Pages given back at the front of each table (sliding windows). */
  readonly freed: Int32Array
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

/** A request's progress and what it owns. Mutated by the Scheduler alone. */
export class Request {
  readonly id: number
  readonly promptLength: number
  readonly maxTokens: number
  readonly drops: boolean
  readonly priority: number
  readonly arrivedMicros: number
  /** Infinity where nobody said. */
  readonly deadlineMicros: number
  private readonly pageSize: number
  /** An account of its own until it is queued. */
  tenant: Tenant
  /** What policies see of it, made when the first one asks. */
  view: RequestView | null = null

  phase: RequestPhase = "waiting"
  /** Names its content to the executor: from its submission, or since it last started over, until a plan opens it. */
  contentId = 0
  slot = -1
  stateSlot = -1
  /** The segment being computed, or the last one. A request that does not drop passes all segments at once: 0. */
  segment = 0
  /** Rows of that segment that planned steps have computed. */
  computedRows = 0
  /** |S_i| for every set decided so far; [0] is the prompt's length. */
  readonly keptRows: Array<number>
  /** Bitmap of each decided selection. */
  readonly bitmaps: Array<Uint32Array> = []
  /** Output tokens committed. */
  outputs = 0
  /** Output tokens committed or sampled by a step in flight. */
  plannedOutputs = 0
  /** Output tokens that the slot was opened with: rows that follow the kept rows of every set. */
  replayedOutputs = 0
  /** Decode rows planned since the slot was opened. */
  decodeRows = 0
  /** Place in the scheduler's list of decoding requests, −1 outside it. */
  decodeIndex = -1
  /** Decode rows that can be appended before some table needs a page. */
  rowsUntilPage = 0
  /** Page tables, its slot's own while it has one. */
  pages: PageTables
  /** Keys of the full pages known so far; those of generated tokens follow those of the prompt. */
  readonly pageKeys: Array<PageKey>
  /** The cached pages of its prefix, from the first one on. Its tables hold their slabs, or a copy made at the same time. */
  readonly cached: Array<CachedPage> = []
  /** Carry 0 is kept and grows with the output, so that pages with output can be cached. */
  keepsCarry: boolean
  /** The next plan copies the recurrent states, which have taken up this many rows; 0: it does not. */
  savesAt = 0
  /** Answers that wait for this request's prefill to go on from it. */
  readonly forks: Array<Request> = []
  /** In phase `fork`: whose prefill it is. */
  leader: Request | null = null
  /** Prefill is done, and the forks have not been given their pages: the slot stays open until then. */
  forking = false
  /** Prompt tokens found in the cache when it was admitted first. */
  cachedTokens = 0
  /** While it waits: slabs that its prefill may need, −1 until that is asked. */
  prefillSlabs = -1
  /** Slabs set aside for the rest of this request. */
  reservedSlabs = 0
  /** The last step that holds work of this request; 0 when none does. */
  lastStep = 0
  /** The step in flight that selects for this request: nothing more is planned before its commit. 0: none. */
  awaitsStep = 0
  /** Preempted while a step in flight holds work of it: it waits again once that has committed. */
  preempting = false
  /** A plan has closed the slot, which is still its own for the results of steps before. */
  closed = false
  preemptions = 0
  /** Requests that arrived later and were admitted before this one. */
  bypasses = 0
  /** Set when the request ends while a step in flight still holds work of it. */
  endReason: FinishReason | null = null
  firstScheduledMicros = -1
  /** When prefill work of this request was planned last. */
  lastServedMicros: number

  constructor(
    id: number,
    submission: Submission,
    maxTokens: number,
    drops: boolean,
    layout: KvLayout,
    nowMicros: number,
  ) {
    this.id = id
    this.promptLength = submission.promptLength
    this.maxTokens = maxTokens
    this.drops = drops
    this.priority = submission.priority ?? 0
    this.arrivedMicros = nowMicros
    this.deadlineMicros = submission.deadlineMicros ?? Number.POSITIVE_INFINITY
    this.tenant = { name: submission.tenant ?? "", served: 0, live: 0 }
    this.lastServedMicros = nowMicros
    this.keptRows = [submission.promptLength]
    this.pageKeys = submission.pageKeys === undefined ? [] : submission.pageKeys.slice()
    this.pageSize = layout.pageSize
    this.pages = noPages(layout)
    this.keepsCarry = this.canKeepCarry
  }

  get tables(): ReadonlyArray<IntList> {
    return this.pages.slabs
  }

  get freedPages(): Int32Array {
    return this.pages.freed
  }

  /** Has a slot that it is about to give up: nothing more is planned for it. */
  get isLeaving(): boolean {
    return this.endReason !== null || this.preempting || this.slot < 0
  }

  /** Rows that prefill computes in a segment: the kept rows and the replayed output. */
  prefillRows(segment: number): number {
    return this.rowsOf(segment) + this.replayedOutputs
  }

  /** A preempted request gives up its place and keeps what it decided: prefill starts over, output included. */
  restart(): void {
    this.phase = "waiting"
    this.preempting = false
    this.segment = 0
    this.computedRows = 0
    this.replayedOutputs = this.outputs
    this.plannedOutputs = this.outputs
    this.decodeRows = 0
    this.rowsUntilPage = 0
    this.awaitsStep = 0
    this.savesAt = 0
    this.forking = false
    this.recount()
  }

  /** What follows from the output and its keys for a request that waits. */
  recount(): void {
    this.keepsCarry = this.canKeepCarry
    this.prefillSlabs = -1
  }

  /** A fork takes over what its leader decided. */
  adopt(leader: Request): void {
    this.segment = leader.segment
    this.keepsCarry = leader.keepsCarry
    this.firstScheduledMicros = leader.firstScheduledMicros
    this.cachedTokens = leader.cachedTokens
    this.keptRows.splice(0, this.keptRows.length, ...leader.keptRows)
    this.bitmaps.splice(0, this.bitmaps.length, ...leader.bitmaps)
    this.pageKeys.splice(0, this.pageKeys.length, ...leader.pageKeys)
  }

  /** Every full page has a key, so that those to come can follow. */
  private get canKeepCarry(): boolean {
    const full = Math.floor((this.promptLength + this.outputs) / this.pageSize)
    return this.drops && this.pageKeys.length > 0 && this.pageKeys.length >= full
  }

  /** |S_i|; the last known set stands in for those not decided yet (sets are nested: an upper bound). */
  rowsOf(segment: number): number {
    return this.keptRows[Math.min(segment, this.keptRows.length - 1)]!
  }
}

/** Takes a request out of a list, where it is in it. */
export const removeFrom = (list: Array<Request>, request: Request): void => {
  const index = list.indexOf(request)
  if (index === 0) list.shift()
  else if (index > 0) list.splice(index, 1)
}
