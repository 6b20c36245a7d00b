import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { CachedWindows } from "@uniprefill/scheduler/CachedWindows"
import { makePages } from "@uniprefill/scheduler/Holdings"
import { IntList } from "@uniprefill/scheduler/IntList"
import { type PageRun, PrefixTree } from "@uniprefill/scheduler/PrefixTree"
import { Request } from "@uniprefill/scheduler/Request"
import { expect, it } from "vitest"
import { full, sliding, specOf } from "../../../test/simulation/Models.ts"

const layout = makeKvLayout(specOf([full, sliding(65)]), denseSchedule, {
  pageSize: 64,
  kvElementBytes: 2,
  carryElementBytes: 2,
})
const t = layout.tables.findIndex(({ kind }) => kind === "sliding")
const wide = layout.tables[t]!.slabsPerPage

/** Three cached pages with their windows, which a request has adopted; who made them has gone. */
const adopted = () => {
  const cache = new PrefixTree()
  const prefix: Array<PageRun> = []
  for (let page = 0; page < 3; page++) {
    const run = cache.start(prefix.at(-1) ?? cache.root(), page, 1, 1)
    cache.append(run, [page], 0, 1, IntList.from([page]), 0)
    cache.addWindow(
      run,
      0,
      Int32Array.from({ length: wide }, (_, i) => 10 * (page + 1) + i),
    )
    cache.unread(run, 0)
    prefix.push(run)
  }
  const windows = new CachedWindows(layout, cache)
  const request = new Request(1, { promptLength: 300, drops: false }, 10, false, layout, 0)
  request.holdings.pages = makePages(layout)
  request.holdings.lastRun = prefix[2]!
  request.holdings.cachedPages = 3
  expect(windows.areCached(prefix, [t])).toBe(true)
  expect(windows.unread(prefix, [t])).toBe(wide)
  windows.adopt(prefix, [t], request.holdings)
  return { cache, prefix, windows, request }
}

it("a request reads the windows that its next row sees, and no others", () => {
  const { cache, prefix, windows, request } = adopted()
  expect(request.holdings.freedPages[t]).toBe(2)
  expect(request.holdings.tables[t]!.length).toBe(wide)
  expect(prefix.map((run) => run.windows[0]!.readers)).toEqual([0, 0, 1])
  expect([cache.idleSlabs, windows.unread(prefix, [t])]).toEqual([2 * wide, 0])
})

it("a window that a step in flight may read is idle once that step has committed", () => {
  const { cache, prefix, windows, request } = adopted()
  windows.committed(4)
  request.flight.usedBy(5)
  windows.giveUp(request, t, 0, 0, wide)
  expect([cache.idleSlabs, windows.inFlightOf(prefix[2]!, 0)]).toEqual([2 * wide, 1])
  windows.committed(5)
  expect([cache.idleSlabs, windows.inFlightOf(prefix[2]!, 0)]).toEqual([3 * wide, 0])
})

it("a window has as many readers as there are tables that have it", () => {
  const { cache, prefix, windows, request } = adopted()
  windows.share(request, t, 0)
  windows.giveUp(request, t, 0, 0, wide)
  expect([prefix[2]!.windows[0]!.readers, cache.idleSlabs]).toEqual([1, 2 * wide])
  windows.giveUp(request, t, 0, 0, wide)
  expect([prefix[2]!.windows[0]!.readers, cache.idleSlabs]).toEqual([0, 3 * wide])
})
