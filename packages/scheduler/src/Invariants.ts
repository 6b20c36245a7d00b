import type { Scheduler } from "./Scheduler.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { pagesFor } from "@uniprefill/units/Units"
import { InvariantViolation } from "./InvariantViolation.ts"
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
  const { pool, cache } = scheduler.memory
  const owners = new Map<number, number>()
  let cached = 0
  let idle = 0
  for (const page of cache.values()) {
    for (const slab of page.slabs) owners.set(slab, 0)
    cached += page.slabs.length
    if (page.users === 0) idle += page.slabs.length
    const users = requests.filter((request) => request.cached.includes(page)).length
    require(users === page.users, "users of a cached page are counted", { key: page.key, users, counted: page.users })
  }
  require(cached === cache.slabs && cached <= owners.size, "cached slabs are counted once", {
    cached,
    counted: cache.slabs,
  })
  require(idle === cache.idleSlabs, "idle slabs are counted", { idle, counted: cache.idleSlabs })
  let owned = 0
  let reserved = 0
  let slots = 0
  for (const request of requests) {
    const { id } = request
    let own = 0
    for (const table of request.tables) {
      for (let i = 0; i < table.length; i++) {
        const slab = table.data[i]!
        const other = owners.get(slab)
        if (other === 0 && request.cached.some((page) => page.slabs.includes(slab))) continue
        if (other !== undefined) throw new InvariantViolation("a slab has one owner", { slab, id, other })
        owners.set(slab, id)
        own++
      }
    }
    require(own === request.ownedSlabs, "owned slabs are counted", { id, own, counted: request.ownedSlabs })
    require(request.reservedSlabs >= 0, "a reservation is never negative", { id, reserved: request.reservedSlabs })
    if (request.phase === "waiting")
      require(own === 0 && request.slot < 0, "a waiting request owns nothing", { id, own })
    else slots++
    owned += own
    reserved += request.reservedSlabs
    for (let i = 1; i < request.keptRows.length; i++) {
      require(request.keptRows[i]! <= request.keptRows[i - 1]!, "kept sets are nested", { id, set: i })
    }
    checkTables(request, config)
  }
  require(pool.free + pool.draining + owned + cached === pool.total, "slabs are conserved", {
    cached,
    free: pool.free,
    draining: pool.draining,
    owned,
    total: pool.total,
  })
  require(reserved === scheduler.memory.reserved, "reservations are counted", {
    reserved,
    counted: scheduler.memory.reserved,
  })
  const covered = pool.free + pool.draining + idle
  require(reserved <= covered, "reservations are covered", { reserved, covered })
  require(scheduler.memory.slotsFree + slots === config.slots, "slots are conserved", { slots })
}

/** A decoding request holds exactly the pages of its rows, and no carry. */
const checkTables = (request: Request, config: SchedulerConfig): void => {
  if (request.phase !== "decode") return
  for (const [t, table] of config.layout.tables.entries()) {
    const pages = request.freedPages[t]! + request.tables[t]!.length / table.slabsPerPage
    const rows = table.kind === "carry" ? 0 : request.prefillRows(table.segment) + request.decodeRows
    const exact = pagesFor(rows, config.layout.pageSize)
    const atMost = table.kind === "carry" ? request.cached.length : pagesFor(rows + 1, config.layout.pageSize)
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
