import { IntList } from "@uniprefill/scheduler/IntList"
import { type PageKey, type PageRun, PrefixTree } from "@uniprefill/scheduler/PrefixTree"
import fc from "fast-check"
import { expect, it } from "vitest"

/**
 * Uses a prefix, one slab a page: the cached pages, split off where it parts from them, then its own, all at once, which extend
 * a run that nobody else uses. Returns its runs.
 */
const use = (
  cache: PrefixTree,
  root: PageRun,
  keys: ReadonlyArray<PageKey>,
  firstSlab: number,
): ReadonlyArray<PageRun> => {
  const runs: Array<PageRun> = []
  for (let page = 0; page < keys.length;) {
    const before = runs.at(-1) ?? root
    const known = before.find(keys[page]!)
    if (known === undefined) {
      if (!cache.canExtend(before)) runs.push(cache.start(before, keys[page]!, 0, 1))
      const slabs = IntList.from([-1, ...keys.map((_, number) => firstSlab + number)])
      cache.append(runs.at(-1)!, keys, page, keys.length, slabs, page + 1)
      break
    }
    const same = known.matches(keys, page, keys.length - page)
    const run = same < known.pages ? cache.split(known, same) : known
    cache.acquire(run)
    runs.push(run)
    page += same
  }
  return runs
}

/** Gives a prefix up. Others may have split its runs: the way back is the tree's. */
const leave = (cache: PrefixTree, root: PageRun, runs: ReadonlyArray<PageRun>): void => {
  for (let run = runs.at(-1)!; run !== root; run = run.parent!) cache.release(run)
}

/** Keys of the pages in the order in which they are evicted. */
const evictAll = (cache: PrefixTree): ReadonlyArray<PageKey> => {
  const evicted: Array<PageKey> = []
  for (let run = cache.leastRecent; run !== null; run = cache.leastRecent) {
    evicted.push(run.keys.at(-1)!)
    cache.evict()
  }
  return evicted
}

it("finds pages along their prefix, in one tree and not in another", () => {
  const cache = new PrefixTree()
  const [dropping, dense] = [cache.root(), cache.root()]
  const [run] = use(cache, dropping, ["a", "b"], 0)
  expect(dropping.find("a")).toBe(run)
  expect(run!.matches(["a", "b", "c"], 0, 3)).toBe(2)
  expect(run!.matches(["a", "c"], 0, 2)).toBe(1)
  expect(run!.matches(["x", "a", "b"], 1, 1)).toBe(1)
  expect(dropping.find("b")).toBeUndefined()
  expect(dense.find("a")).toBeUndefined()
})

it("prefixes part and keep what they share", () => {
  const cache = new PrefixTree()
  const root = cache.root()
  const one = use(cache, root, ["system", "x", "y"], 0)
  const two = use(cache, root, ["system", "z"], 10)
  const [front, rest] = [two[0]!, one[0]!]
  expect([front.keys, rest.keys, two[1]!.keys]).toEqual([["system"], ["x", "y"], ["z"]])
  expect([front.slabs.toArray(), rest.slabs.toArray()]).toEqual([[0], [1, 2]])
  expect([front.users, rest.users]).toEqual([2, 1])
  expect([root.find("system"), rest.parent, front.find("x"), front.find("z")]).toEqual([front, front, rest, two[1]])
  leave(cache, root, one)
  leave(cache, root, two)
  expect([cache.slabs, cache.idleSlabs]).toEqual([4, 4])
  expect(cache.values()).toHaveLength(3)
})

it("evicts the page longest unused, never one before those behind it", () => {
  const cache = new PrefixTree()
  const root = cache.root()
  leave(cache, root, use(cache, root, ["a", "b", "c"], 0))
  leave(cache, root, use(cache, root, ["a", "d"], 10))
  // The second use of "a" came last, and "d", given up before it, is behind it.
  expect(evictAll(cache)).toEqual(["c", "b", "d", "a"])
  expect([cache.slabs, cache.idleSlabs, root.find("a")]).toEqual([0, 0, undefined])
})

it("evicts the front of a run that was split after its rest, and before what was used later", () => {
  const cache = new PrefixTree()
  const root = cache.root()
  const one = use(cache, root, ["a", "b", "c"], 0)
  leave(cache, root, one)
  leave(cache, root, use(cache, root, ["x"], 10))
  cache.split(one[0]!, 1)
  expect(evictAll(cache)).toEqual(["c", "b", "a", "x"])
})

it("does not evict what somebody uses", () => {
  const cache = new PrefixTree()
  const [run] = use(cache, cache.root(), ["a", "b"], 0)
  expect([cache.idleSlabs, cache.leastRecent]).toEqual([0, null])
  cache.release(run!)
  expect(cache.leastRecent).toBe(run)
  expect(() => cache.release(run!)).toThrow("a page is given back by a user")
})

it("goes on with a run that lost its last pages while nobody used it", () => {
  const cache = new PrefixTree()
  const root = cache.root()
  leave(cache, root, use(cache, root, ["a", "b", "c"], 0))
  cache.evict()
  const again = use(cache, root, ["a", "b", "d"], 20)
  expect(again.map(({ keys }) => keys)).toEqual([["a", "b", "d"]])
  expect(again[0]!.slabs.toArray()).toEqual([0, 1, 22])
})

/** What the cache does, page by page: every page has users of its own, and a place in the order of last use. */
class PageByPage {
  readonly pages = new Map<string, { users: number; lastUse: number }>()
  private clock = 0

  use(keys: ReadonlyArray<number>): void {
    for (let page = 1; page <= keys.length; page++) {
      const name = keys.slice(0, page).join()
      const one = this.pages.get(name) ?? { users: 0, lastUse: 0 }
      this.pages.set(name, one)
      one.users++
    }
  }

  leave(keys: ReadonlyArray<number>): void {
    for (let page = keys.length; page > 0; page--) {
      const one = this.pages.get(keys.slice(0, page).join())!
      one.users--
      one.lastUse = ++this.clock
    }
  }

  /** Key of the page that goes. */
  evict(): number | undefined {
    const idle = [...this.pages].filter(([, { users }]) => users === 0)
    if (idle.length === 0) return undefined
    const [name] = idle.reduce((a, b) => (a[1].lastUse < b[1].lastUse ? a : b))
    this.pages.delete(name)
    return Number(name.split(",").at(-1))
  }
}

it("holds, counts and evicts the pages that a cache of single pages does", () => {
  const prefix = fc.array(fc.nat(1), { minLength: 1, maxLength: 6 })
  const event = fc.oneof(
    { weight: 2, arbitrary: prefix },
    fc.constant("leave" as const),
    fc.integer({ min: 1, max: 3 }),
  )
  fc.assert(
    fc.property(fc.array(event, { maxLength: 80 }), fc.nat(7), (drawn, turn) => {
      const cache = new PrefixTree()
      const root = cache.root()
      const naive = new PageByPage()
      const users: Array<{ readonly keys: ReadonlyArray<number>; readonly runs: ReadonlyArray<PageRun> }> = []
      const evicted: Array<PageKey | undefined> = []
      const expected: Array<PageKey | undefined> = []
      for (const [at, what] of drawn.entries()) {
        if (typeof what === "number") {
          // So many pages of one run, the last one first.
          const gone = cache.leastRecent?.keys.slice(-what).toReversed() ?? [undefined]
          if (cache.leastRecent !== null) cache.evict(gone.length)
          evicted.push(...gone)
          expected.push(...gone.map(() => naive.evict()))
        } else if (what === "leave") {
          const [gone] = users.splice((turn + at) % Math.max(1, users.length), 1)
          if (gone === undefined) continue
          leave(cache, root, gone.runs)
          naive.leave(gone.keys)
        } else {
          users.push({ keys: what, runs: use(cache, root, what, 0) })
          naive.use(what)
        }
        expect(evicted).toEqual(expected)
        const pages = [...naive.pages.values()]
        const idle = pages.filter((page) => page.users === 0).length
        expect([cache.slabs, cache.idleSlabs]).toEqual([pages.length, idle])
        const uses = cache.values().reduce((sum, run) => sum + run.pages * run.users, 0)
        expect(uses).toBe(pages.reduce((sum, page) => sum + page.users, 0))
      }
    }),
    { numRuns: 300 },
  )
})

it("counts windows as idle that nobody reads, whether their page is used or not", () => {
  const cache = new PrefixTree()
  const page = cache.start(cache.root(), 7, 1, 2)
  cache.append(page, [7], 0, 1, IntList.from([1, 2]), 0)
  cache.addWindow(page, 0, Int32Array.of(3))
  expect([cache.slabs, cache.idleSlabs, page.slabCount, cache.canExtend(page)]).toEqual([3, 0, 3, false])
  cache.read(page, 0)
  cache.unread(page, 0)
  expect([cache.idleSlabs, cache.firstPassed]).toEqual([0, null])
  expect(() => cache.evictWindow(page, 0)).toThrow("a window that is read is not evicted")
  cache.unread(page, 0)
  expect([cache.idleSlabs, cache.firstPassed]).toEqual([1, page])
  expect(() => cache.unread(page, 0)).toThrow("a window is given back by a reader")
  cache.release(page)
  expect([cache.idleSlabs, cache.firstPassed]).toEqual([3, null])
  expect(() => cache.addWindow(page, 0, Int32Array.of(4))).toThrow("a window is added by a user")
  cache.acquire(page)
  expect([cache.idleSlabs, cache.firstPassed]).toEqual([1, page])
  cache.evictWindow(page, 0)
  expect([cache.slabs, cache.idleSlabs, page.slabCount, cache.firstPassed]).toEqual([2, 0, 2, null])
  cache.release(page)
  cache.evict()
  expect([cache.slabs, cache.idleSlabs]).toEqual([0, 0])
})
