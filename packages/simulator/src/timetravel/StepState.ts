import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { PageRun, PrefixTree } from "@uniprefill/scheduler/PrefixTree"
import type { Request, RequestPhase } from "@uniprefill/scheduler/Request"
import { ItemField, sections, sectionWidths } from "@uniprefill/scheduler/StepPlan"
import type { Inspected } from "../output/Inspected.ts"
import { stepTerms, stepText } from "../output/StepText.ts"
import { whyLines, whyOf, type StepWhy } from "../output/WhyLog.ts"
import type { StepRecord } from "../Replica.ts"
import { keptBlocks, type KeptBlocks } from "./KeptBlocks.ts"

/** Requests that wait and are listed, the first ones; those behind them are counted. */
const listedWaiting = 200

/** Prefixes that are listed, the largest ones. */
const listedPrefixes = 12

/**
 * Everything about a moment: a step right after it was planned, and the state of its replica then. Plain data, which crosses
 * threads.
 */
export interface StepState {
  readonly step: number
  readonly replica: number
  /** When it was planned, µs. */
  readonly nowMicros: number
  readonly startMicros: number
  readonly endMicros: number
  readonly deviceMicros: number
  readonly plannedMicros: number
  readonly failed: boolean
  readonly policy: string
  /** Rows of a step, where the policy bounds those in place of time. */
  readonly tokenBudget: number | null
  readonly budgetMicros: number
  readonly decodeRows: number
  readonly items: ReadonlyArray<PieceState>
  /** The parts of the step's time, whose sum it is. */
  readonly terms: ReadonlyArray<{ readonly name: string; readonly micros: number }>
  /** What the prediction rests on that was not measured. */
  readonly outside: ReadonlyArray<string>
  readonly why: StepWhy
  /** As `uniprefill-sim explain` prints it. */
  readonly text: string
  /** Records of each section of the plan. */
  readonly plan: ReadonlyArray<{ readonly section: string; readonly records: number }>
  readonly requests: ReadonlyArray<RequestState>
  /** Requests that wait behind those listed. */
  readonly unlistedWaiting: number
  readonly memory: MemoryState
}

/** A piece of prefill in a step. */
export interface PieceState {
  /** Row of the workload. */
  readonly row: number
  readonly firstRow: number
  readonly rows: number
  readonly firstSegment: number
  readonly lastSegment: number
  /** It ends its prompt, whose first token comes with the step. */
  readonly givesToken: boolean
}

export interface RequestState {
  /** Row of the workload. */
  readonly row: number
  readonly phase: RequestPhase
  /** −1 without one. */
  readonly slot: number
  readonly promptTokens: number
  readonly outputs: number
  readonly maxTokens: number
  readonly drops: boolean
  /** Served at a lower p than the schedule's, so that first tokens come in time. */
  readonly isLowered: boolean
  readonly segment: number
  readonly computedRows: number
  /** Rows that its prefill computes in that segment. */
  readonly segmentRows: number
  /** |S_i| for every set decided. */
  readonly keptRows: ReadonlyArray<number>
  readonly slabs: number
  readonly reservedSlabs: number
  readonly cachedPages: number
  readonly arrivedMicros: number
  readonly preemptions: number
  readonly bypasses: number
  /** The step in flight that selects for it; 0: none. */
  readonly awaitsStep: number
  readonly tenant: string
  readonly priority: number
}

/** Slabs of a replica. */
export interface MemoryState {
  readonly total: number
  readonly free: number
  /** Given back, and still touched by a step in flight. */
  readonly draining: number
  /** Held by requests. */
  readonly used: number
  readonly reserved: number
  readonly unreserved: number
  readonly slots: number
  readonly slotsFree: number
  readonly cache: CacheState
}

export interface CacheState {
  readonly slabs: number
  readonly idleSlabs: number
  readonly pages: number
  readonly idlePages: number
  /** Trees of pages that begin alike. */
  readonly prefixes: number
  /** The largest of them: pages in all, along the longest way, and requests that use its first page. */
  readonly largest: ReadonlyArray<{ readonly pages: number; readonly longest: number; readonly users: number }>
}

/** What a request owns, page by page, and what was kept of it. */
export interface RequestDetail {
  readonly state: RequestState
  readonly tables: ReadonlyArray<{
    readonly kind: string
    readonly segment: number
    readonly slabsPerPage: number
    /** Pages given back at the front (sliding windows). */
    readonly freedPages: number
    readonly slabs: Int32Array
  }>
  readonly kept: KeptBlocks
}

/** The state right after a step was planned. */
export const stepState = (replica: Inspected, step: StepRecord, endMicros: number, nowMicros: number): StepState => {
  const { driver, config, device, policy } = replica
  const { load } = device
  const { plan, startMicros, deviceMicros, plannedMicros, failed } = step
  const requests: Array<RequestState> = []
  let waiting = 0
  for (const request of driver.open) {
    if (request.phase === "waiting" && ++waiting > listedWaiting) continue
    requests.push(requestState(replica, request))
  }
  return {
    step: plan.stepId,
    replica: replica.index,
    nowMicros,
    startMicros,
    endMicros,
    deviceMicros,
    plannedMicros,
    failed,
    policy: policy.name,
    tokenBudget: policy.tokenBudget?.maxNumBatchedTokens ?? null,
    budgetMicros: replica.budgetMicros,
    decodeRows: load.decodeRows,
    items: piecesOf(replica, step),
    terms: stepTerms(replica, step),
    outside: config.costModel.outside?.(load) ?? [],
    why: whyOf(replica, step),
    text: `${stepText(replica, step, endMicros)}\n\n${whyLines(replica, step).slice(1).join("\n")}`,
    plan: sections.flatMap((section) => {
      const records = plan[section].length / sectionWidths[section]
      return records === 0 ? [] : [{ section, records }]
    }),
    requests,
    unlistedWaiting: Math.max(0, waiting - listedWaiting),
    memory: memoryState(replica),
  }
}

/** What a request of the workload owns right now; null where the loop holds nothing of it. */
export const requestDetail = (replica: Inspected, row: number): RequestDetail | null => {
  const { config, driver } = replica
  for (const request of driver.open) {
    if (replica.rowOf(request.id) !== row) continue
    return {
      state: requestState(replica, request),
      tables: tablesOf(request, config.layout),
      kept: keptBlocks(request.promptLength, request.bitmaps, config.schedule),
    }
  }
  return null
}

const piecesOf = ({ device }: Inspected, { plan }: StepRecord): Array<PieceState> => {
  const { data } = plan.items
  const ending = new Set<number>()
  for (let i = 0; i < plan.samples.length; i += sectionWidths.samples) ending.add(plan.samples.data[i]!)
  return Array.from({ length: plan.itemCount }, (_, item) => {
    const at = item * sectionWidths.items
    return {
      row: device.contentOf(data[at + ItemField.slot]!).key,
      firstRow: data[at + ItemField.firstRow]!,
      rows: data[at + ItemField.rows]!,
      firstSegment: data[at + ItemField.firstSegment]!,
      lastSegment: data[at + ItemField.lastSegment]!,
      givesToken: ending.has(item),
    }
  })
}

const requestState = (replica: Inspected, request: Request): RequestState => ({
  row: replica.rowOf(request.id),
  phase: request.phase,
  slot: request.slot,
  promptTokens: request.promptLength,
  outputs: request.outputs,
  maxTokens: request.maxTokens,
  drops: request.drops,
  isLowered: request.account.isLowered,
  segment: request.progress.segment,
  computedRows: request.progress.computedRows,
  segmentRows: request.progress.prefillRows(request.progress.segment),
  keptRows: request.keptRows.slice(),
  slabs: request.holdings.tables.reduce((sum, table) => sum + table.length, 0),
  reservedSlabs: request.holdings.reservedSlabs,
  cachedPages: request.holdings.cachedPages,
  arrivedMicros: request.arrivedMicros,
  preemptions: request.account.preemptions,
  bypasses: request.account.bypasses,
  awaitsStep: request.flight.awaitsStep,
  tenant: request.tenant,
  priority: request.priority,
})

const tablesOf = (request: Request, layout: KvLayout): RequestDetail["tables"] =>
  layout.tables.map(({ kind, segment, slabsPerPage }, t) => ({
    kind,
    segment,
    slabsPerPage,
    freedPages: request.holdings.freedPages[t]!,
    slabs: request.holdings.tables[t]!.data.slice(0, request.holdings.tables[t]!.length),
  }))

const memoryState = ({ driver, config }: Inspected): MemoryState => {
  const { memory } = driver.scheduler
  return {
    total: memory.pool.total,
    free: memory.pool.free,
    draining: memory.pool.draining,
    used: memory.used,
    reserved: memory.reserved,
    unreserved: memory.unreserved,
    slots: config.slots,
    slotsFree: memory.slotsFree,
    cache: cacheState(memory.tree),
  }
}

/** Goes from run to run and makes no list of them: what a look leaves behind keeps the collector busy. */
const cacheState = (cache: PrefixTree): CacheState => {
  const trees: Array<PageTree> = []
  for (const root of cache.roots) {
    if (root.next !== null) trees.push(treeFrom(root.next))
    if (root.others !== null) for (const run of root.others.values()) trees.push(treeFrom(run))
  }
  return {
    slabs: cache.slabs,
    idleSlabs: cache.idleSlabs,
    pages: trees.reduce((sum, tree) => sum + tree.pages, 0),
    idlePages: trees.reduce((sum, tree) => sum + tree.idlePages, 0),
    prefixes: trees.length,
    largest: trees
      .sort((a, b) => b.pages - a.pages)
      .slice(0, listedPrefixes)
      .map(({ pages, longest, users }) => ({ pages, longest, users })),
  }
}

interface PageTree {
  readonly pages: number
  readonly idlePages: number
  /** Pages along the longest way. */
  readonly longest: number
  /** Of its first page. */
  readonly users: number
}

const treeFrom = (first: PageRun): PageTree => {
  /** Where ways part: runs that are still to be followed, and how many lie before each. */
  const open = [first]
  const before = [0]
  let pages = 0
  let idlePages = 0
  let longest = 0
  for (let start = open.pop(); start !== undefined; start = open.pop()) {
    let length = before.pop()!
    for (let run: PageRun | null = start; run !== null; run = run.next) {
      length += run.pages
      pages += run.pages
      if (run.users === 0) idlePages += run.pages
      if (run.others === null) continue
      for (const other of run.others.values()) {
        open.push(other)
        before.push(length)
      }
    }
    longest = Math.max(longest, length)
  }
  return { pages, idlePages, longest, users: first.users }
}
