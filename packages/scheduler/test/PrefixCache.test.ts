import { type CachedPage, PrefixCache } from "@uniprefill/scheduler/PrefixCache"
import { expect, it } from "vitest"

/** Publishes a chain of pages, one slab each, and gives it up, the last page first. */
const chain = (cache: PrefixCache, root: CachedPage, keys: ReadonlyArray<string>, slab: number): Array<CachedPage> => {
  const pages: Array<CachedPage> = []
  for (const [i, key] of keys.entries()) {
    const parent = pages[i - 1] ?? root
    const known = parent.find(key)
    if (known === undefined) pages.push(cache.publish(parent, key, [slab + i], 0))
    else {
      cache.acquire(known)
      pages.push(known)
    }
  }
  for (const page of pages.toReversed()) cache.release(page)
  return pages
}

it("finds pages along their prefix, in one tree and not in another", () => {
  const cache = new PrefixCache()
  const [dropping, dense] = [cache.root(), cache.root()]
  const [a, b] = chain(cache, dropping, ["a", "b"], 0)
  expect(dropping.find("a")).toBe(a)
  expect(a!.find("b")).toBe(b)
  expect(dropping.find("b")).toBeUndefined()
  expect(dense.find("a")).toBeUndefined()
})

it("prefixes part and keep what they share", () => {
  const cache = new PrefixCache()
  const root = cache.root()
  const one = chain(cache, root, ["system", "x", "y"], 0)
  const two = chain(cache, root, ["system", "z"], 10)
  expect(two[0]).toBe(one[0])
  expect([one[0]!.find("x"), one[0]!.find("z")]).toEqual([one[1], two[1]])
  expect([cache.slabs, cache.idleSlabs]).toEqual([4, 4])
  expect([...cache.values()]).toHaveLength(4)
})

it("evicts the page longest unused, never one before those behind it", () => {
  const cache = new PrefixCache()
  const root = cache.root()
  chain(cache, root, ["a", "b", "c"], 0)
  chain(cache, root, ["a", "d"], 10)
  const evicted: Array<unknown> = []
  for (let page = cache.evict(); page !== undefined; page = cache.evict()) evicted.push(page.key)
  // The second use of "a" came last, and "d", given up before it, is behind it.
  expect(evicted).toEqual(["c", "b", "d", "a"])
  expect([cache.slabs, cache.idleSlabs, root.find("a")]).toEqual([0, 0, undefined])
})

it("does not evict what somebody uses", () => {
  const cache = new PrefixCache()
  const [page] = chain(cache, cache.root(), ["a"], 0)
  cache.acquire(page!)
  expect([cache.idleSlabs, cache.evict()]).toEqual([0, undefined])
  cache.release(page!)
  expect(cache.evict()).toBe(page)
  expect(() => cache.release(page!)).toThrow("a page is given back by a user")
})

it("counts windows that are added to a page in use", () => {
  const cache = new PrefixCache()
  const page = cache.publish(cache.root(), 7, [1, 2], 1)
  cache.addWindow(page, 0, [3])
  expect([cache.slabs, cache.idleSlabs, page.slabCount]).toEqual([3, 0, 3])
  cache.release(page)
  expect(cache.idleSlabs).toBe(3)
  expect(() => cache.addWindow(page, 0, [4])).toThrow("a window is added by a user")
})
