import type { Scheduler } from "./Scheduler.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { pagesFor } from "@uniprefill/units/Units"
import { InvariantViolation } from "./InvariantViolation.ts"
import type { Holdings } from "./Holdings.ts"
import type { PageRun } from "./PrefixCache.ts"
import type { Request } from "./Request.ts"

/**
 * Whether the books balance: every slab is free, draining or owned once; tables hold the pages that their rows need;
 * reservations are covered; sets are nested; nothing is owned when nothing runs. Throws InvariantViolation.
 *
 * Cost: proportional to the slabs owned. For tests, and for an engine that has gone idle.
 */
export const checkIntegrity = (
  scheduler: Scheduler,
  config: SchedulerConfig,
  requests: ReadonlyArray<Request>,
): void => {
  const { memory } = scheduler
  const { pool, cache } = memory
  /** Who holds each slab: the cache, then tables. */
  const holders = new Map<number, number>()
  const hold = (slab: number) => holders.set(slab, (holders.get(slab) ?? 0) + 1)
  let cached = 0
  let idle = 0
  const users = new Map<PageRun, number>()
  for (const { id, holdings } of requests) {
    let pages = 0
    for (const run of prefixOf(holdings)) {
      users.set(run, (users.get(run) ?? 0) + 1)
      pages += run.pages
    }
    require(pages === holdings.cachedPages, "a request uses whole runs of pages", {
      id,
      pages,
      of: holdings.cachedPages,
    })
  }
  for (const run of cache.values()) {
    const key = run.keys[0]
    for (const slab of slabsOf(run)) {
      require(!holders.has(slab), "a cached slab belongs to one page", { key, slab })
      hold(slab)
      cached++
    }
    if (run.users === 0) idle += run.slabCount
    const counted = run.users
    require((users.get(run) ?? 0) === counted, "users of a cached page are counted", {
      key,
      users: users.get(run) ?? 0,
      counted,
    })
    require(run.parent!.parent === null || run.parent!.users >= counted, "a page is used with all before it", { key })
  }
  require(cached === cache.slabs && cached === holders.size, "cached slabs are counted once", {
    cached,
    counted: cache.slabs,
  })
  require(idle === cache.idleSlabs, "idle slabs are counted", { idle, counted: cache.idleSlabs })
  const cachedSlabs = new Set(holders.keys())
  let reserved = 0
  let slots = 0
  for (const request of requests) {
    const { id } = request
    let own = 0
    const prefix = new Set(prefixOf(request.holdings).flatMap(slabsOf))
    for (const table of request.holdings.tables) {
      for (let i = 0; i < table.length; i++) {
        const slab = table.data[i]!
        hold(slab)
        if (!cachedSlabs.has(slab)) own++
        else require(prefix.has(slab), "a cached slab is read by those whose prefix it is", { slab, id })
      }
    }
    require(request.holdings.reservedSlabs >= 0, "a reservation is never negative", {
      id,
      reserved: request.holdings.reservedSlabs,
    })
    if (request.phase === "waiting")
      require(request.holdings.tables.every((table) => table.length === 0) &&
        request.slot < 0, "a waiting request owns nothing", {
        id,
        own,
      })
    if (request.slot >= 0) slots++
    reserved += request.holdings.reservedSlabs
    for (let i = 1; i < request.keptRows.length; i++) {
      require(request.keptRows[i]! <= request.keptRows[i - 1]!, "kept sets are nested", { id, set: i })
    }
    checkTables(request, scheduler, config)
  }
  for (const [slab, count] of holders) {
    if (!cachedSlabs.has(slab))
      require(pool.holdersOf(slab) === count, "holders of a slab are counted", {
        slab,
        holders: count,
        counted: pool.holdersOf(slab),
      })
  }
  require(pool.free + pool.draining + holders.size === pool.total, "slabs are conserved", {
    cached,
    free: pool.free,
    draining: pool.draining,
    held: holders.size,
    total: pool.total,
  })
  require(reserved === scheduler.memory.reserved, "reservations are counted", {
    reserved,
    counted: scheduler.memory.reserved,
  })
  const covered = pool.free + pool.draining + idle
  require(reserved <= covered, "reservations are covered", { reserved, covered })
  require(scheduler.memory.slotsFree + slots === config.slots, "slots are conserved", { slots })
  checkTenants(scheduler, requests)
}

/** The runs of pages of a request's prefix, the last one first. */
const prefixOf = ({ lastRun }: Holdings): ReadonlyArray<PageRun> => {
  const runs: Array<PageRun> = []
  for (let run = lastRun; run !== null && run.parent !== null; run = run.parent) runs.push(run)
  return runs
}

const slabsOf = ({ slabs, windows }: PageRun): ReadonlyArray<number> => [
  ...slabs.toArray(),
  ...windows.flatMap((list) => [...(list ?? [])]),
]

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
      require(memory.pool.holdersOf(last) === 1, "a page that is written has one holder", {
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
