import { readdirSync } from "node:fs"
import { getPriority } from "node:os"
import { assert, describe, it } from "@effect/vitest"
import { FairQueue } from "@uniprefill/threads/FairQueue"
import { type JobOptions, makeThreadPool } from "@uniprefill/threads/ThreadPool"
import { Effect, Fiber } from "effect"

const makePool = (threads: number, maxWaiting = 100) =>
  makeThreadPool<{ add: number; millis?: number }, number>({
    entry: new URL("./addThread.ts", import.meta.url),
    workerData: { base: 100 },
    name: "the adder",
    threads,
    maxWaiting,
  })

describe("a pool of threads", () => {
  it.live("gives every job its own answer, on however many threads", () =>
    Effect.gen(function* () {
      for (const threads of [1, 3]) {
        const pool = yield* makePool(threads)
        const answers = yield* Effect.forEach([1, 2, 3, 4, 5], (add) => pool.run({ add }), { concurrency: "unbounded" })
        assert.deepStrictEqual(answers, [101, 102, 103, 104, 105])
      }
    }).pipe(Effect.scoped),
  )

  it.live("names what went wrong, and goes on", () =>
    Effect.gen(function* () {
      const pool = yield* makePool(1)
      const thrown = yield* Effect.flip(pool.run({ add: 13 }))
      assert.deepStrictEqual([thrown.reason, thrown.detail], ["Failed", "unlucky"])
      const dead = yield* Effect.flip(pool.run({ add: 99 }))
      assert.deepStrictEqual([dead.reason, dead.detail], ["ThreadLost", "a thread of the adder ended"])
      assert.strictEqual(yield* pool.run({ add: 1 }), 101)
    }).pipe(Effect.scoped),
  )

  it.live("refuses what is beyond its queue, and forgets jobs whose callers left", () =>
    Effect.gen(function* () {
      const pool = yield* makePool(1, 1)
      const start = (add: number) => Effect.forkChild(pool.run({ add, millis: 150 }), { startImmediately: true })
      const running = yield* start(1)
      const waiting = yield* start(2)
      const refused = yield* Effect.flip(pool.run({ add: 3 }))
      assert.strictEqual(refused.reason, "QueueFull")
      yield* Fiber.interrupt(waiting)
      assert.strictEqual(pool.waiting(), 0)
      const next = yield* start(4)
      assert.deepStrictEqual([yield* Fiber.join(running), yield* Fiber.join(next)], [101, 104])
    }).pipe(Effect.scoped),
  )

  it.live("keeps a thread for short jobs, and ends one under a long job that is given up", () =>
    Effect.gen(function* () {
      const pool = yield* makePool(2)
      const long: JobOptions = { long: true, endThread: true }
      const jobs = yield* Effect.forEach([1, 2], () =>
        Effect.forkChild(pool.run({ add: 1, millis: 3_600_000 }, long), { startImmediately: true }),
      )
      assert.strictEqual(yield* pool.run({ add: 5 }), 105)
      yield* Effect.forEach(jobs, Fiber.interrupt)
      assert.strictEqual(yield* pool.run({ add: 6 }, long), 106)
    }).pipe(Effect.scoped),
  )

  it.live("closing it fails what runs and what waits", () =>
    Effect.gen(function* () {
      const fibers = yield* Effect.scoped(
        Effect.gen(function* () {
          const pool = yield* makePool(1)
          return yield* Effect.forEach([1, 2], (add) =>
            Effect.forkDetach(Effect.flip(pool.run({ add, millis: 60_000 })), { startImmediately: true }),
          )
        }),
      )
      for (const fiber of fibers) assert.strictEqual((yield* Fiber.join(fiber)).reason, "ThreadLost")
    }),
  )
})

it.live("a thread that gives way is alone in it", () =>
  Effect.gen(function* () {
    const pool = yield* makePool(1)
    yield* pool.run({ add: 1 })
    const tasks = readdirSync("/proc/self/task").map(Number)
    const priorities = tasks.map((task) => getPriority(task))
    assert.strictEqual(priorities.filter((priority) => priority === getPriority() + 5).length, 1)
  }).pipe(Effect.scoped),
)

describe("turns", () => {
  it("go round, whatever a caller has waiting", () => {
    const queue = new FairQueue<{ readonly of: string }>()
    for (let i = 0; i < 3; i++) queue.add("many", { of: `many ${i}` })
    const left = { of: "left" }
    queue.add("left", left)
    queue.add("one", { of: "one" })
    assert.isTrue(queue.remove("left", left))
    assert.isFalse(queue.remove("left", left))
    const order = Array.from({ length: 4 }, () => queue.take()!.of)
    assert.deepStrictEqual(order, ["many 0", "one", "many 1", "many 2"])
    assert.strictEqual(queue.size, 0)
  })
})
