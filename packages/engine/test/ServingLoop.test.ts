import { assert, describe, it } from "@effect/vitest"
import { Engine } from "@uniprefill/engine/Engine"
import { ExecutorError } from "@uniprefill/executor/contract/Executor"
import { Deferred, Effect, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import {
  assertIdle,
  collect,
  collectAll,
  encode,
  engineLayer,
  provideTokenizer,
  request,
  settle,
} from "./EngineHarness.ts"
import { ScriptedExecutor } from "./ScriptedExecutor.ts"

describe("the serving loop", () => {
  it.effect("gives the same output with one and with two steps in flight", () =>
    Effect.gen(function* () {
      const outputs = yield* encode("count 1212345")
      for (const maxStepsInFlight of [1, 2] as const) {
        const executor = new ScriptedExecutor({ outputs: () => outputs, stepMillis: 10 })
        yield* Effect.gen(function* () {
          const engine = yield* Engine
          const results = yield* Effect.forEach([{ stop: ["123"] }, { maxTokens: 1 }, {}], (fields, i) =>
            Effect.forkChild(collect(engine, request([5 + i], fields))),
          )
          yield* TestClock.adjust("10 seconds")
          const [stopped, single, plain] = yield* Effect.forEach(results, Fiber.join)
          assert.strictEqual(stopped!.text, "count 12")
          assert.strictEqual(stopped!.finished.completionTokens, outputs.length - 2)
          assert.deepStrictEqual(single!.tokens, outputs.slice(0, 1))
          assert.deepStrictEqual(plain!.tokens.slice(0, outputs.length), outputs)
          assert.strictEqual(executor.mostInFlight, maxStepsInFlight)
          yield* assertIdle(executor)
        }).pipe(Effect.provide(engineLayer(executor, { maxStepsInFlight })))
      }
    }).pipe(provideTokenizer),
  )

  it.effect("opens a preempted request's slot again with its output and its selections", () =>
    Effect.gen(function* () {
      const script = (key: number) => Array.from({ length: 900 }, (_, i) => (key * 7 + i) % 4_000)
      const executor = new ScriptedExecutor({ outputs: ([key]) => script(key!), stepMillis: 10, slabs: 200 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const prompt = (key: number) => [key, ...Array.from({ length: 1_100 }, () => 3)]
        const fibers = yield* Effect.forEach([100, 600, 1_100, 1_600], (key) =>
          Effect.forkChild(collect(engine, request(prompt(key), { maxTokens: 900 }))),
        )
        yield* TestClock.adjust("1 minute")
        for (const [i, fiber] of fibers.entries()) {
          assert.deepStrictEqual((yield* Fiber.join(fiber)).tokens, script(100 + 500 * i))
        }
        const resumed = executor.contents.filter((content) => content.tokens.length > content.promptLength)
        assert.isAbove(resumed.length, 0)
        for (const { tokens, promptLength, bitmaps } of resumed) {
          const outputs = [...tokens.subarray(promptLength)]
          assert.deepStrictEqual(outputs, script(tokens[0]!).slice(0, outputs.length))
          assert.strictEqual(bitmaps.length, 2)
        }
        yield* assertIdle(executor)
      }).pipe(Effect.provide(engineLayer(executor, { headroomTokens: 0 })))
    }),
  )

  it.effect("opens a slot with the lower p of a prompt that would be late, and the answer says so", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [9, 2] })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const prompt = Array.from({ length: 1_100 }, (_, i) => 300 + (i % 90))
        const askedOf = () => executor.contents.at(-1)!.pQ32!.map((p) => Number(p) / 2 ** 32)
        const inTime = yield* collect(engine, request(prompt, { firstTokenWithinMicros: 1_000_000 }))
        assert.isFalse(inTime.finished.lowered)
        assert.deepStrictEqual(
          askedOf().map((p) => Math.round(p * 100)),
          [90, 50],
        )
        const late = yield* collect(engine, request(prompt, { firstTokenWithinMicros: 1 }))
        assert.isTrue(late.finished.lowered)
        // The second layer's own is lower still.
        assert.deepStrictEqual(
          askedOf().map((p) => Math.round(p * 100)),
          [60, 50],
        )
        const named = yield* collect(engine, request(prompt, { firstTokenWithinMicros: 1, minP: 0.95 }))
        assert.isFalse(named.finished.lowered)
        assert.deepStrictEqual(
          askedOf().map((p) => Math.round(p * 100)),
          [95, 95],
        )
        assert.strictEqual(executor.stored.size, 0)
        yield* assertIdle(executor)
      }).pipe(Effect.provide(engineLayer(executor, { sloP: 0.6 })))
    }).pipe(provideTokenizer),
  )

  it.effect("lets readers run between the steps of an executor that never suspends", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10] })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const [stream] = yield* engine.generate(request([5], { maxTokens: 1_000 }))
        const events = yield* Stream.runCollect(stream)
        // Far fewer would mean that output piled up while the executor ran.
        assert.isAbove(events.length, 900)
      }).pipe(Effect.scoped, Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("puts tokens that follow each other closely in one event, but for the first and the last", () =>
    Effect.gen(function* () {
      // As many letters as tokens, and an end that nothing may hold up.
      const outputs = Array.from({ length: 2_000 }, (_, i) => 35 + (i % 60))
      const executor = new ScriptedExecutor({ outputs: () => outputs })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        // Longer than the answer takes: only its first token and its end are told of before.
        const [stream] = yield* engine.generate(request([5], { maxTokens: 2_000 }))
        const events = yield* Stream.runCollect(stream)
        const tokens = events.map((event) => (event._tag === "Output" ? event.tokens.length : event._tag))
        assert.deepStrictEqual(tokens, [1, 1_999, "Finished"])
        const all = events.flatMap((event) => (event._tag === "Output" ? event.tokens : []))
        assert.deepStrictEqual(all, outputs)
        yield* assertIdle(executor)
      }).pipe(Effect.scoped, Effect.provide(engineLayer(executor, { streamIntervalMs: 600_000 })))
    }),
  )

  it.effect("tells a reader of what came while it was to wait, though no step follows", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [35, 36, 37, 38], stepMillis: 10 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const [stream] = yield* engine.generate(request([5], { maxTokens: 4 }))
        const seen: Array<number> = []
        const reading = Stream.runForEachWhile(stream, (event) =>
          Effect.sync(() => {
            if (event._tag === "Output") seen.push(...event.tokens)
            return seen.length < 3
          }),
        )
        const reader = yield* Effect.forkChild(reading)
        // Three steps, and then the executor hangs.
        yield* TestClock.adjust("35 millis")
        yield* Fiber.join(reader)
        assert.deepStrictEqual(seen, [35, 36, 37])
      }).pipe(Effect.scoped, Effect.provide(engineLayer(executor, { streamIntervalMs: 20 })))
    }),
  )
})

describe("an executor that fails", () => {
  const lost = new ExecutorError({ reason: "DeviceLost", operation: "step 3", detail: "device 0 fell off the bus" })
  const differing = new ExecutorError({
    reason: "Internal",
    operation: "step 3",
    detail: "rank 1 of 2 drew token 7 for slot 0, rank 0 9",
  })

  it.effect.each([lost, differing])(
    "$reason fails the requests of its step, naming what and where; others are served",
    (failure) =>
      Effect.gen(function* () {
        const executor = new ScriptedExecutor({
          outputs: () => [10],
          stepMillis: 10,
          slots: 2,
          failStep: (call) => (call === 3 ? failure : undefined),
        })
        yield* Effect.gen(function* () {
          const engine = yield* Engine
          const running = yield* Effect.forEach([0, 1], () =>
            Effect.forkChild(Effect.flip(collect(engine, request([5])))),
          )
          const waiting = yield* Effect.forkChild(collect(engine, request([6])))
          yield* TestClock.adjust("1 second")
          for (const fiber of running) {
            const error = yield* Fiber.join(fiber)
            assert.strictEqual(error.reason, "Failed")
            assert.strictEqual(error.detail, failure.message)
          }
          assert.strictEqual((yield* Fiber.join(waiting)).tokens.length, 16)
          const status = yield* engine.status
          assert.isTrue(status.healthy)
          assert.strictEqual(status.failures, 0)
          assert.strictEqual(status.lastFailure, failure.message)
          yield* assertIdle(executor)
        }).pipe(Effect.provide(engineLayer(executor)))
      }),
  )

  it.effect("makes the engine unhealthy after three failures in a row, until a step succeeds", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], failStep: (call) => (call < 3 ? lost : undefined) })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        for (const healthy of [true, true, false]) {
          yield* Effect.flip(collect(engine, request([5])))
          assert.strictEqual((yield* engine.status).healthy, healthy)
        }
        assert.strictEqual((yield* collect(engine, request([5]))).tokens.length, 16)
        assert.isTrue((yield* engine.status).healthy)
        yield* assertIdle(executor)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("that refuses a content ends that request before anything runs, and nobody else notices", () =>
    Effect.gen(function* () {
      const refusal = new ExecutorError({
        reason: "InvalidArgument",
        operation: "put content 2",
        detail: "bitmap 0 has 9 words",
      })
      const executor = new ScriptedExecutor({
        outputs: () => [10],
        stepMillis: 10,
        failPut: ({ tokens }) => (tokens[0] === 7 ? refusal : undefined),
      })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const good = yield* Effect.forkChild(collect(engine, request([5])))
        yield* TestClock.adjust(25)
        // While a step runs: the answer does not wait for its end.
        const refused = yield* Effect.forkChild(Effect.flip(collectAll(engine, request([7], { answers: 3 }))))
        yield* settle
        const error = yield* Fiber.join(refused)
        assert.strictEqual(error.reason, "InvalidRequest")
        assert.strictEqual(error.detail, "bitmap 0 has 9 words")
        yield* TestClock.adjust("1 second")
        assert.strictEqual((yield* Fiber.join(good)).tokens.length, 16)
        assert.strictEqual((yield* engine.status).lastFailure, null)
        // The name is free again.
        yield* assertIdle(executor)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("that fails to take a content, without saying that it is wrong, fails that request", () =>
    Effect.gen(function* () {
      const failure = new ExecutorError({ reason: "OutOfMemory", operation: "put content 1", detail: "no workspace" })
      let refusals = 1
      const executor = new ScriptedExecutor({
        outputs: () => [10],
        failPut: () => (refusals-- > 0 ? failure : undefined),
      })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const error = yield* Effect.flip(collect(engine, request([5])))
        assert.deepStrictEqual([error.reason, error.detail], ["Failed", "put content 1: no workspace"])
        assert.strictEqual((yield* collect(engine, request([5]))).tokens.length, 16)
        yield* assertIdle(executor)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("that is lost ends everything, and nothing is taken any more", () =>
    Effect.gen(function* () {
      const gone = yield* Deferred.make<never, ExecutorError>()
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 10, lost: Deferred.await(gone) })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const running = yield* Effect.forkChild(Effect.flip(collect(engine, request([5]))))
        yield* TestClock.adjust(25)
        yield* Deferred.fail(gone, lost)
        yield* settle
        assert.strictEqual((yield* Fiber.join(running)).detail, "the engine stopped: step 3: device 0 fell off the bus")
        assert.isFalse((yield* engine.status).healthy)
        assert.strictEqual((yield* Effect.flip(collect(engine, request([5])))).reason, "Failed")
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("with logits that are not finite ends that request alone", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({
        outputs: () => [10],
        nonFinite: ([key], step) => key === 7 && step === 4,
      })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const good = yield* Effect.forkChild(collect(engine, request([5])))
        const error = yield* Effect.flip(collect(engine, request([7])))
        assert.strictEqual(error.reason, "Failed")
        assert.strictEqual(error.detail, "the logits of output token 3 hold a NaN or an infinity")
        assert.strictEqual((yield* Fiber.join(good)).tokens.length, 16)
        yield* assertIdle(executor)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("by hanging shows in the time since work last moved", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 5_000 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        yield* TestClock.adjust("1 minute")
        assert.strictEqual((yield* engine.status).stalledMicros, 0)
        const fiber = yield* Effect.forkChild(collect(engine, request([5], { maxTokens: 2 })))
        yield* TestClock.adjust(4_000)
        const status = yield* engine.status
        assert.strictEqual(status.stalledMicros, 4_000_000)
        assert.strictEqual(status.stepInFlight, 1)
        yield* TestClock.adjust(2_000)
        assert.strictEqual((yield* engine.status).stalledMicros, 1_000_000)
        yield* TestClock.adjust("1 minute")
        yield* Fiber.join(fiber)
        assert.strictEqual((yield* engine.status).stalledMicros, 0)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )
})
