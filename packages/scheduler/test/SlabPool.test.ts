import { SlabPool } from "@uniprefill/scheduler/SlabPool"
import { expect, it } from "vitest"

const take = (pool: SlabPool, count: number): Int32Array => {
  const slabs = new Int32Array(count)
  pool.take(slabs, 0, count)
  return slabs
}

it("gives each slab to one taker, and refuses more than are free", () => {
  const pool = new SlabPool(5)
  const slabs = [...take(pool, 2), ...take(pool, 3)]
  expect(slabs.toSorted((a, b) => a - b)).toEqual([0, 1, 2, 3, 4])
  expect(pool.free).toBe(0)
  expect(() => take(pool, 1)).toThrow("slabs are granted only when they are free (count=1, free=0)")
})

it("keeps what a step in flight may touch until that has committed", () => {
  const pool = new SlabPool(3)
  const slabs = take(pool, 3)
  pool.committed(4)
  pool.release(slabs, 0, 1, 4)
  pool.release(slabs, 1, 2, 6)
  pool.release(slabs, 2, 3, 5)
  expect([pool.free, pool.draining]).toEqual([1, 2])
  pool.committed(5)
  expect([pool.free, pool.draining]).toEqual([2, 1])
  pool.committed(6)
  expect([pool.free, pool.draining, pool.used]).toEqual([3, 0, 0])
})

it("a shared slab is free when its last holder has given it up, and after the last step of any of them", () => {
  const pool = new SlabPool(1)
  const slabs = take(pool, 1)
  pool.share(slabs, 0, 1)
  pool.release(slabs, 0, 1, 9)
  expect([pool.free, pool.othersOf(slabs[0]!)]).toEqual([0, 0])
  pool.committed(7)
  // The second holder's steps are over, the first one's are not.
  pool.release(slabs, 0, 1, 7)
  expect([pool.free, pool.draining]).toEqual([0, 1])
  pool.committed(9)
  expect(pool.free).toBe(1)
})

it("gives slabs that had one holder back as they are, at once or with their step", () => {
  const pool = new SlabPool(80)
  const slabs = take(pool, 80)
  pool.share(slabs, 0, 2)
  pool.committed(1)
  pool.release(slabs, 0, 5, 1, 2)
  expect([pool.free, pool.draining, pool.othersOf(slabs[0]!)]).toEqual([3, 0, 0])
  pool.release(slabs, 5, 80, 2, 5)
  expect([pool.free, pool.draining]).toEqual([3, 75])
  pool.committed(2)
  pool.release(slabs, 0, 2, 1)
  expect(take(pool, 80).toSorted()).toEqual(slabs.toSorted())
})

it("keeps what a step of an earlier holder may touch, also where the last one gives it back as its own", () => {
  const pool = new SlabPool(2)
  const slabs = take(pool, 2)
  pool.share(slabs, 0, 1)
  pool.committed(1)
  pool.release(slabs, 0, 1, 3)
  pool.release(slabs, 0, 2, 1, 0)
  expect([pool.free, pool.draining]).toEqual([1, 1])
  pool.committed(3)
  expect([pool.free, pool.draining]).toEqual([2, 0])
})

it("finds what is given back twice", () => {
  const pool = new SlabPool(2)
  const slabs = take(pool, 1)
  pool.release(slabs, 0, 1, 0)
  expect(() => pool.release(slabs, 0, 1, 0)).toThrow("a slab is released once (free=3, draining=0, total=2)")
})
