import type { KvLayout } from "@uniprefill/model/KvLayout"
import { Account } from "./Account.ts"
import { Flight } from "./Flight.ts"
import { Holdings } from "./Holdings.ts"
import type { PageKeyList } from "./PrefixTree.ts"
import { Progress } from "./Progress.ts"
import type { RequestView } from "./RequestView.ts"
import { newTenant } from "./Tenants.ts"

/**
 * - `waiting`: in the queue, owns nothing; a preempted request waits again, its selections and output kept;
 * - `prefill`: has a slot; `progress` says how far it is;
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
  /** The client said which p it wants: it is not lowered for a late first token. */
  readonly fixedP?: boolean | undefined
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
  readonly pageKeys?: PageKeyList | undefined
}

/** A request on its way: what was asked for, and four records, each changed by its owner alone. */
export class Request {
  readonly id: number
  readonly promptLength: number
  readonly maxTokens: number
  readonly drops: boolean
  readonly fixedP: boolean
  readonly priority: number
  readonly arrivedMicros: number
  /** Infinity where nobody said. */
  readonly deadlineMicros: number
  /** What policies see of it, made when the first one asks. */
  view: RequestView | null = null

  phase: RequestPhase = "waiting"
  /** Names its content to the executor: from its submission, or since it last started over, until a plan opens it. */
  contentId = 0
  /** Answers that wait for this request's prefill to go on from it. */
  readonly forks: Array<Request> = []
  /** In phase `fork`: whose prefill it is. */
  leader: Request | null = null
  endReason: FinishReason | null = null

  readonly progress: Progress
  readonly holdings: Holdings
  readonly flight = new Flight()
  readonly account: Account
  private readonly pageSize: number

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
    this.fixedP = submission.fixedP ?? false
    this.priority = submission.priority ?? 0
    this.arrivedMicros = nowMicros
    this.deadlineMicros = submission.deadlineMicros ?? Number.POSITIVE_INFINITY
    this.pageSize = layout.pageSize
    this.progress = new Progress(submission.promptLength)
    this.holdings = new Holdings(layout, submission.pageKeys ?? noKeys)
    this.account = new Account(newTenant(submission.tenant ?? ""), nowMicros)
    this.recount()
  }

  get slot(): number {
    return this.holdings.slot
  }

  /** Output tokens committed. */
  get outputs(): number {
    return this.progress.outputs
  }

  /** |S_i| for every set decided so far. */
  get keptRows(): ReadonlyArray<number> {
    return this.progress.keptRows
  }

  /** Bitmap of each decided selection. */
  get bitmaps(): ReadonlyArray<Uint32Array> {
    return this.progress.bitmaps
  }

  get tenant(): string {
    return this.account.tenant.name
  }

  /** A preempted request gives up its place and keeps what it decided: prefill starts over, output included. */
  restart(): void {
    this.phase = "waiting"
    this.progress.restart()
    this.flight.restart()
    this.holdings.lacksAt = 0
    this.recount()
  }

  /** What follows from the output and its keys for a request that waits. */
  recount(): void {
    this.holdings.keepsCarry = this.canKeepCarry
    this.holdings.prefillSlabs = -1
  }

  /** A fork takes over what its leader decided. */
  adopt(leader: Request): void {
    this.progress.adopt(leader.progress)
    this.holdings.keepsCarry = leader.holdings.keepsCarry
    this.holdings.adoptKeys(leader.holdings)
    this.account.firstScheduledMicros = leader.account.firstScheduledMicros
    this.account.cachedTokens = leader.account.cachedTokens
  }

  /** Whether some of its forks have not ended. */
  get hasLiveForks(): boolean {
    return this.forks.length > 0 && this.forks.some((fork) => fork.endReason === null)
  }

  /** Every full page has a key, so that those to come can follow. */
  private get canKeepCarry(): boolean {
    const { pageKeys } = this.holdings
    const full = Math.floor((this.promptLength + this.outputs) / this.pageSize)
    return this.drops && pageKeys.length > 0 && pageKeys.length >= full
  }
}

const noKeys: PageKeyList = []

/** Takes a request out of a list, where it is in it. */
export const removeFrom = (list: Array<Request>, request: Request): void => {
  const index = list.indexOf(request)
  if (index === 0) list.shift()
  else if (index > 0) list.splice(index, 1)
}
