import type { Scheduler } from "./Scheduler.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { pagesFor } from "@uniprefill/units/Units"
import { InvariantViolation } from "./InvariantViolation.ts"
import type { Holdings } from "./Holdings.ts"
import type { PageKey, PageRun, PrefixTree } from "./PrefixTree.ts"
import type { Levels } from "./Levels.ts"
import type { Request } from "./Request.ts"
import type { SlabPool } from "./SlabPool.ts"

/**
 * Whether the books balance: every slab is free, draining or owned once; tables hold the pages that their rows need;
 * reservations are covered; sets are nested; nothing is owned when nothing runs. Throws InvariantViolation.
 *
 * Cost: proportional to the slabs owned, and to what waits times its priorities. For tests, and for an engine that has gone idle.
 */
export const checkIntegrity = (
  scheduler: Scheduler,
  config: SchedulerConfig,
  requests: ReadonlyArray<Request>,
): void => {
  const { memory } = scheduler
  const { pool, tree } = memory
  const owners = ownersOf(pool)
  checkTree(tree, owners, requests)
  const cached = owners.held
  let reserved = 0
  let slots = 0
  for (const request of requests) {
    const { id, holdings } = request
    const prefix = new Set(prefixOf(holdings))
    for (const { data, length } of holdings.tables) {
      for (let i = 0; i < length; i++) {
        const run = owners.runAt(data[i]!)
        owners.hold(data[i]!)
        if (run !== null && !prefix.has(run)) {
          throw new InvariantViolation("a cached slab is read by those whose prefix it is", { slab: data[i]!, id })
        }
      }
    }
    require(holdings.reservedSlabs >= 0, "a reservation is never negative", { id, reserved: holdings.reservedSlabs })
    if (request.phase === "waiting") {
      const own = holdings.tables.reduce((sum, { length }) => sum + length, 0)
      require(own === 0 && request.slot < 0, "a waiting request owns nothing", { id, own })
      require(!request.account.holdsTurn, "a waiting request has given up its turn", { id })
    }
    if (request.slot >= 0) slots++
    reserved += holdings.reservedSlabs
    for (let i = 1; i < request.keptRows.length; i++) {
      require(request.keptRows[i]! <= request.keptRows[i - 1]!, "kept sets are nested", { id, set: i })
    }
    checkTables(request, scheduler, config)
  }
  owners.check()
  checkIdle(scheduler, owners)
  require(pool.free + pool.draining + owners.held === pool.total, "slabs are conserved", {
    cached,
    free: pool.free,
    draining: pool.draining,
    held: owners.held,
    total: pool.total,
  })
  require(reserved === memory.reserved, "reservations are counted", { reserved, counted: memory.reserved })
  const covered = pool.free + pool.draining + tree.idleSlabs
  require(reserved <= covered, "reservations are covered", { reserved, covered })
  require(memory.slotsFree + slots === config.slots, "slots are conserved", { slots })
  checkTenants(scheduler, requests)
}

/** Runs of pages have each slab once, and are used by those whose prefix they are. */
const checkTree = (tree: PrefixTree, owners: Owners, requests: ReadonlyArray<Request>): void => {
  const users = new Map<PageRun, number>()
  for (const { id, holdings } of requests) {
    let pages = 0
    for (const run of prefixOf(holdings)) {
      users.set(run, (users.get(run) ?? 0) + 1)
      pages += run.pages
    }
    const counted = holdings.cachedPages
    require(pages === counted, "a request uses whole runs of pages", { id, pages, counted })
  }
  for (const run of tree.values()) {
    const key = run.keys[0]
    owners.cache(run)
    const counted = users.get(run) ?? 0
    require(counted === run.users, "users of a cached page are counted", { key, users: counted, counted: run.users })
    require(run.parent!.parent === null || run.parent!.users >= counted, "a page is used with all before it", { key })
  }
  require(owners.held === tree.slabs, "cached slabs are counted once", { cached: owners.held, counted: tree.slabs })
}

/** Idle are pages that nobody uses, and windows that are in no table and in no step in flight. */
const checkIdle = ({ memory }: Scheduler, owners: Owners): void => {
  const { tree, prefixes } = memory
  let idle = 0
  for (const run of tree.values()) {
    if (run.users === 0) idle += run.slabs.length
    for (const [w, window] of run.windows.entries()) {
      if (window === null) continue
      const { slabs } = window
      const readers = owners.tablesOf(slabs[0]!) + prefixes.windows.inFlightOf(run, w)
      const details = { key: run.keys[0], window: w, readers, counted: window.readers }
      require(readers === window.readers, "readers of a window are counted", details)
      require(readers === 0 || run.users > 0, "a window is read by users of its page", details)
      if (readers === 0) idle += slabs.length
    }
  }
  require(idle === tree.idleSlabs, "idle slabs are counted", { idle, counted: tree.idleSlabs })
}

/** The runs of pages of a request's prefix, the last one first. */
const prefixOf = ({ lastRun }: Holdings): ReadonlyArray<PageRun> => {
  const runs: Array<PageRun> = []
  for (let run = lastRun; run !== null && run.parent !== null; run = run.parent) runs.push(run)
  return runs
}

/** Who has each slab, counted anew: a run of cached pages, or tables. */
class Owners {
  /** Slabs that somebody has. */
  held = 0
  private readonly pool: SlabPool
  private readonly tables: Uint16Array
  /** Number of the run in `runs`, from 1 on; 0 without. */
  private readonly run: Int32Array
  private readonly runs: Array<PageRun> = []

  constructor(pool: SlabPool) {
    this.pool = pool
    this.tables = new Uint16Array(pool.total)
    this.run = new Int32Array(pool.total)
  }

  clear(): this {
    this.held = 0
    this.tables.fill(0)
    this.run.fill(0)
    this.runs.length = 0
    return this
  }

  runAt(slab: number): PageRun | null {
    return this.run[slab] === 0 ? null : this.runs[this.run[slab]! - 1]!
  }

  /** A table has it: the cache's slabs are counted already. */
  hold(slab: number): void {
    if (this.tables[slab]!++ === 0 && this.run[slab] === 0) this.held++
  }

  tablesOf(slab: number): number {
    return this.tables[slab]!
  }

  cache(run: PageRun): void {
    this.runs.push(run)
    this.cacheList(run.slabs.data, run.slabs.length, run.keys[0]!)
    for (const window of run.windows) {
      if (window !== null) this.cacheList(window.slabs, window.slabs.length, run.keys[0]!)
    }
  }

  private cacheList(slabs: Int32Array, length: number, key: PageKey): void {
    for (let i = 0; i < length; i++) {
      const slab = slabs[i]!
      if (this.run[slab] !== 0) throw new InvariantViolation("a cached slab belongs to one page", { key, slab })
      this.run[slab] = this.runs.length
    }
    this.held += length
  }

  /** The pool counts the tables of a slab beyond the first one too: none of a slab that is free, draining or the cache's. */
  check(): void {
    for (let slab = 0; slab < this.tables.length; slab++) {
      const holders = this.run[slab] === 0 ? this.tables[slab]! : 0
      const counted = this.pool.othersOf(slab)
      if (counted === Math.max(0, holders - 1)) continue
      throw new InvariantViolation("holders of a slab are counted", { slab, holders, others: counted })
    }
  }
}

/** Made once for a pool: a check after every step would make new ones each time. */
const ownersOf = (pool: SlabPool): Owners => {
  const known = made.get(pool) ?? new Owners(pool)
  made.set(pool, known)
  return known.clear()
}

const made = new WeakMap<SlabPool, Owners>()

/** Requests that wait are counted by priority. */
const checkLevels = (levels: Levels, queued: ReadonlyArray<Request>): void => {
  let counted = 0
  for (const [priority, level] of levels.all) {
    const those = queued.filter((request) => request.priority === priority)
    const waitingTokens = those.reduce((sum, { promptLength }) => sum + promptLength, 0)
    require(level.waiting === those.length &&
      level.waitingTokens === waitingTokens, "the queue of a priority is counted", { priority, ...level })
    counted += those.length
  }
  require(counted === queued.length, "every priority that waits is counted", { counted, waiting: queued.length })
}

/** What each tenant has running and waiting adds up to what runs and waits. */
const checkTenants = ({ state }: Scheduler, requests: ReadonlyArray<Request>): void => {
  for (const tenant of state.tenants.all) {
    const running = requests.filter(({ slot, account }) => slot >= 0 && account.tenant === tenant).length
    const queued = [...state.waiting].filter(({ account }) => account.tenant === tenant)
    const counted = { running, waiting: queued.length, waitingTokens: 0 }
    for (const { promptLength } of queued) counted.waitingTokens += promptLength
    require(tenant.running === counted.running &&
      tenant.waiting === counted.waiting &&
      tenant.waitingTokens === counted.waitingTokens, "the queue of a tenant is counted", { ...tenant, counted })
    checkLevels(tenant.levels, queued)
  }
}

/** A decoding request holds exactly the pages of its rows; of carries what is cached; nobody else holds what it writes to. */
const checkTables = (request: Request, scheduler: Scheduler, config: SchedulerConfig): void => {
  if (request.phase !== "decode" || request.leader !== null || request.flight.leaving) return
  const { memory } = scheduler
  for (const [t, table] of config.layout.tables.entries()) {
    const pages = request.holdings.freedPages[t]! + request.holdings.tables[t]!.length / table.slabsPerPage
    const grows = memory.holdsOutput(request, t)
    const rows = grows ? request.progress.prefillRows(table.segment) + request.progress.decodeRows : 0
    const exact = pagesFor(rows, config.layout.pageSize)
    const atMost = grows ? pagesFor(rows + 1, config.layout.pageSize) : request.holdings.cachedPages
    const slabs = request.holdings.tables[t]!
    if (grows && rows % config.layout.pageSize > 0 && !request.flight.forking) {
      const last = slabs.data[slabs.length - 1]!
      require(memory.pool.othersOf(last) === 0, "a page that is written has one holder", {
        id: request.id,
        table: t,
        slab: last,
      })
    }
    require(pages === exact || pages === atMost, "a table holds the pages of its rows", {
      id: request.id,
      table: t,
      rows,
      pages,
    })
  }
}

const require = (holds: boolean, invariant: string, details: Readonly<Record<string, unknown>>): void => {
  if (!holds) throw new InvariantViolation(invariant, details)
}
