import { assert, describe, it } from "@effect/vitest"
import { Engine } from "@uniprefill/engine/Engine"
import { Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { assertIdle, collect, engineLayer, request } from "./EngineHarness.ts"
import { ScriptedExecutor } from "./ScriptedExecutor.ts"

describe("requests that end early", () => {
  it.effect("own nothing after their reader has gone, whatever they were doing", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [], stepMillis: 10, slots: 2 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const long = Array.from({ length: 1_500 }, () => 3)
        const decoding = yield* Effect.forkChild(collect(engine, request([5], { maxTokens: 1_000 })))
        yield* TestClock.adjust(45)
        const prefilling = yield* Effect.forkChild(collect(engine, request(long, { maxTokens: 1_000 })))
        const waiting = yield* Effect.forkChild(collect(engine, request(long, { maxTokens: 1_000 })))
        yield* TestClock.adjust(20)
        const busy = yield* engine.status
        assert.strictEqual(busy.running, 2)
        assert.strictEqual(busy.waiting, 1)
        assert.isAbove(busy.slabsUsed, 0)
        for (const fiber of [decoding, prefilling, waiting]) yield* Fiber.interrupt(fiber)
        // The two steps under way, and one that closes their slots and retains the pages which they completed.
        yield* TestClock.adjust(30)
        yield* assertIdle(executor)
        const after = executor.stepCalls
        yield* TestClock.adjust("1 second")
        assert.strictEqual(executor.stepCalls, after)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("are ended when their output is not read, and hold up nobody", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 10 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const [unread] = yield* engine.generate(request([5], { maxTokens: 1_000 }))
        const reader = yield* Effect.forkChild(collect(engine, request([6], { maxTokens: 100 })))
        yield* TestClock.adjust("20 seconds")
        const { finished } = yield* Fiber.join(reader)
        // A hundred steps, after the two that were under way.
        assert.strictEqual(finished.times.finishedMicros, 1_020_000)
        yield* assertIdle(executor)
        const events: Array<number> = []
        const error = yield* Effect.flip(
          Stream.runForEach(unread, (event) =>
            Effect.sync(() => event._tag === "Output" && events.push(event.tokens.length)),
          ),
        )
        assert.deepStrictEqual(events, [33])
        assert.strictEqual(error.reason, "SlowReader")
        assert.include(error.detail, "33 output tokens have not been read; the limit is 32")
      }).pipe(Effect.scoped, Effect.provide(engineLayer(executor, { maxUnreadTokens: 32 })))
    }),
  )

  it.effect("get everything at once when they come back to read in time", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10, 11, 12], stepMillis: 10 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const [stream] = yield* engine.generate(request([5], { maxTokens: 3 }))
        yield* TestClock.adjust("1 second")
        const events = yield* Stream.runCollect(stream)
        const outputs = events.flatMap((event) => (event._tag === "Output" ? [event.tokens] : []))
        assert.deepStrictEqual(outputs, [[10, 11, 12]])
        assert.strictEqual(events.at(-1)!._tag, "Finished")
      }).pipe(Effect.scoped, Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("finish before a drain completes, while new ones are refused", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 10 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const running = yield* Effect.forkChild(collect(engine, request([5], { maxTokens: 20 })))
        yield* TestClock.adjust(15)
        const drain = yield* Effect.forkChild(engine.drain)
        yield* TestClock.adjust(1)
        assert.isTrue((yield* engine.status).draining)
        assert.isUndefined(drain.pollUnsafe())
        assert.strictEqual((yield* Effect.flip(collect(engine, request([5])))).reason, "Draining")
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(running)).tokens.length, 20)
        yield* Fiber.join(drain)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("fail when the engine is shut down, after the step in flight", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 10, uninterruptible: true })
      const scope = yield* Scope.make()
      const context = yield* Layer.buildWithScope(engineLayer(executor), scope)
      const engine = yield* Effect.provide(Engine, context)
      yield* TestClock.adjust(1)
      const running = yield* Effect.forkChild(Effect.flip(collect(engine, request([5], { maxTokens: 1_000 }))))
      yield* TestClock.adjust(15)
      const closing = yield* Effect.forkChild(Scope.close(scope, Exit.void))
      yield* TestClock.adjust("1 second")
      yield* Fiber.join(closing)
      const error = yield* Fiber.join(running)
      assert.strictEqual(error.reason, "Failed")
      assert.strictEqual(error.detail, "the engine has been shut down")
      assert.strictEqual(executor.stepCalls, 2)
      assert.strictEqual((yield* Effect.flip(collect(engine, request([5])))).reason, "Failed")
    }),
  )
})
