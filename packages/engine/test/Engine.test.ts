import { assert, describe, it } from "@effect/vitest"
import { Engine } from "@uniprefill/engine/Engine"
import { ExecutorError } from "@uniprefill/executor/Executor"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { pToQ32 } from "@uniprefill/model/DropSchedule"
import { Effect, Exit, Fiber, Layer, Scope, Stream } from "effect"
import { TestClock } from "effect/testing"
import { collect, encode, engineLayer, needle, request } from "./EngineHarness.ts"
import { ScriptedExecutor } from "./ScriptedExecutor.ts"

/** Tokens, one a character's byte or a digit, so that every character is cut into several. */
const answer = "Emoji 🦔🦊, ünïcödé, 1234567."

describe("a request's output", () => {
  it.effect("comes in order, ends with how it ended, and carries its times", () =>
    Effect.gen(function* () {
      const outputs = yield* encode(answer)
      const executor = new ScriptedExecutor({ outputs: () => outputs, stepMillis: 10 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        yield* TestClock.adjust(1)
        const fiber = yield* Effect.forkChild(collect(engine, request([5, 6, 7], { maxTokens: outputs.length })))
        yield* TestClock.adjust("10 seconds")
        const { events, text, tokens, finished } = yield* Fiber.join(fiber)
        assert.deepStrictEqual(tokens, outputs)
        assert.strictEqual(text, answer)
        assert.strictEqual(events.length, outputs.length + 1)
        assert.deepStrictEqual(finished, {
          _tag: "Finished",
          reason: "length",
          stopReason: null,
          promptTokens: 3,
          completionTokens: outputs.length,
          cachedTokens: 0,
          kept: [1],
          bitmaps: [],
          times: {
            arrivedMicros: 1_000,
            firstScheduledMicros: 1_000,
            firstTokenMicros: 11_000,
            finishedMicros: 1_000 + 10_000 * outputs.length,
          },
        })
      }).pipe(Effect.provide(engineLayer(executor)))
    }).pipe(provideTokenizer),
  )

  it.effect("never shows half a character, and U+FFFD only for one that was cut off", () =>
    Effect.gen(function* () {
      const outputs = (yield* encode("a🦔")).slice(0, -1)
      const executor = new ScriptedExecutor({ outputs: () => outputs, stepMillis: 10 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const fiber = yield* Effect.forkChild(collect(engine, request([5], { maxTokens: outputs.length })))
        yield* TestClock.adjust("1 second")
        const { events } = yield* Fiber.join(fiber)
        const texts = events.flatMap((event) => (event._tag === "Output" ? [event.text] : []))
        assert.deepStrictEqual(texts, ["a", ...outputs.slice(2).map(() => ""), "\uFFFD"])
      }).pipe(Effect.provide(engineLayer(executor)))
    }).pipe(provideTokenizer),
  )

  it.effect("stops at a stop token without its text, or with it when asked", () =>
    Effect.gen(function* () {
      const outputs = yield* encode("yes\nno")
      const newline = outputs[outputs.length - 2]!
      const executor = new ScriptedExecutor({ outputs: () => outputs })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const sampling = { stopTokenIds: [newline] }
        const without = yield* collect(engine, request([5], { sampling }))
        assert.strictEqual(without.text, "yes")
        assert.strictEqual(without.finished.reason, "stop")
        assert.strictEqual(without.finished.stopReason, newline)
        assert.deepStrictEqual(without.tokens, outputs.slice(0, -1))
        const including = yield* collect(engine, request([5], { sampling, includeStop: true }))
        assert.strictEqual(including.text, "yes\n")
      }).pipe(Effect.provide(engineLayer(executor)))
    }).pipe(provideTokenizer),
  )

  it.effect("stops at a stop string that several tokens make up, and holds its beginning back", () =>
    Effect.gen(function* () {
      const outputs = yield* encode("count 1212345")
      const executor = new ScriptedExecutor({ outputs: () => outputs, stepMillis: 10 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const stop = ["123", "nothing"]
        const [cut, including, shielded] = yield* Effect.forEach(
          [{ stop }, { stop, includeStop: true }, { stop, sampling: { minTokens: outputs.length - 3 } }],
          (fields) => Effect.forkChild(collect(engine, request([5], fields))),
        )
        yield* TestClock.adjust("10 seconds")
        const { text, finished, events } = yield* Fiber.join(cut!)
        assert.strictEqual(text, "count 12")
        assert.strictEqual(finished.reason, "stop")
        assert.strictEqual(finished.stopReason, "123")
        assert.strictEqual(finished.completionTokens, outputs.length - 2)
        for (const event of events) if (event._tag === "Output") assert.notInclude(event.text, "3")
        assert.strictEqual((yield* Fiber.join(including!)).text, "count 12123")
        assert.include((yield* Fiber.join(shielded!)).text, "count 1212345")
      }).pipe(Effect.provide(engineLayer(executor)))
    }).pipe(provideTokenizer),
  )

  it.effect("holds log-probabilities for each token when asked for", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10, 20, 30] })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const { events } = yield* collect(engine, request([5], { maxTokens: 3, sampling: { logprobs: 1 } }))
        const logprobs = events.flatMap((event) => (event._tag === "Output" ? event.logprobs : []))
        const expected = [10, 20, 30].map((token) => [
          [token, -1],
          [token + 1, -2],
        ])
        assert.deepStrictEqual(logprobs, expected as never)
        const without = yield* collect(engine, request([5], { maxTokens: 1 }))
        assert.deepStrictEqual(
          without.events.flatMap((event) => (event._tag === "Output" ? event.logprobs : [])),
          [],
        )
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("reports which rows a long prompt kept, and serves it dense when asked", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10] })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const prompt = Array.from({ length: 2_000 }, (_, i) => i)
        const { finished } = yield* collect(engine, request(prompt, { maxTokens: 1, minP: 0.8 }))
        assert.strictEqual(finished.kept.length, 3)
        assert.strictEqual(finished.kept[0], 1)
        assert.isBelow(finished.kept[1]!, 1)
        assert.isAtMost(finished.kept[2]!, finished.kept[1]!)
        assert.strictEqual(finished.bitmaps[0]!.length, 1)
        assert.deepStrictEqual(executor.opened[0]!.pQ32, [pToQ32(0.9), pToQ32(0.8)])
        const dense = yield* collect(engine, request(prompt, { maxTokens: 1, drop: false }))
        assert.deepStrictEqual(dense.finished.kept, [1])
        assert.isNull(executor.opened[1]!.pQ32)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("is each request's own among many at once", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: ([key]) => Array.from({ length: 50 }, (_, i) => key! + i) })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const keys = Array.from({ length: 60 }, (_, i) => 100 + i * 60)
        const results = yield* Effect.forEach(
          keys,
          (key, i) =>
            collect(engine, request([key, ...Array.from({ length: i * 20 }, () => 3)], { maxTokens: 1 + (i % 50) })),
          { concurrency: "unbounded" },
        )
        for (const [i, key] of keys.entries()) {
          assert.deepStrictEqual(
            results[i]!.tokens,
            Array.from({ length: 1 + (i % 50) }, (_, n) => key + n),
          )
        }
        yield* assertIdle(executor)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )
})

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
        const resumed = executor.opened.filter((content) => content.tokens.length > content.promptLength)
        assert.isAbove(resumed.length, 0)
        for (const { tokens, promptLength, bitmaps } of resumed) {
          const outputs = [...tokens.subarray(promptLength)]
          assert.deepStrictEqual(outputs, script(tokens[0]!).slice(0, outputs.length))
          assert.strictEqual(bitmaps.length, 2)
        }
        yield* assertIdle(executor)
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
  )

  it.effect("lets readers run between the steps of an executor that never suspends", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10] })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const stream = yield* engine.generate(request([5], { maxTokens: 1_000 }))
        const events = yield* Stream.runCollect(stream)
        // Far fewer would mean that output piled up while the executor ran.
        assert.isAbove(events.length, 900)
      }).pipe(Effect.scoped, Effect.provide(engineLayer(executor)))
    }),
  )
})

describe("requests that are refused", () => {
  const cases = [
    { name: "no prompt", prompt: [], fields: {}, reason: "InvalidRequest", field: "prompt", says: "has no tokens" },
    {
      name: "a token that is none",
      prompt: [9_999],
      fields: {},
      reason: "InvalidRequest",
      field: "prompt",
      says: "4096",
    },
    {
      name: "no output",
      prompt: [1],
      fields: { maxTokens: 0 },
      reason: "InvalidRequest",
      field: "max_tokens",
      says: "0",
    },
    {
      name: "a NaN",
      prompt: [1],
      fields: { sampling: { temperature: NaN } },
      reason: "InvalidRequest",
      field: "temperature",
      says: "NaN",
    },
    {
      name: "an empty stop string",
      prompt: [1],
      fields: { stop: [""] },
      reason: "InvalidRequest",
      field: "stop",
      says: "empty",
    },
    {
      name: "a bias on no token",
      prompt: [1],
      fields: { sampling: { logitBias: [[4096, 1]] } },
      reason: "InvalidRequest",
      field: "logit_bias",
      says: "4096",
    },
    {
      name: "nothing allowed",
      prompt: [1],
      fields: { sampling: { allowedTokenIds: [] } },
      reason: "InvalidRequest",
      field: "allowed_token_ids",
      says: "no token",
    },
    {
      name: "a p above 1",
      prompt: [1],
      fields: { minP: 1.5 },
      reason: "InvalidRequest",
      field: "uniprefill.p",
      says: "1.5",
    },
    {
      name: "a prompt as long as the model",
      prompt: Array.from({ length: 4096 }, () => 1),
      fields: {},
      reason: "TooLong",
      field: "prompt",
      says: "4096",
    },
    {
      name: "more output than fits",
      prompt: [1, 1],
      fields: { maxTokens: 4095 },
      reason: "TooLong",
      field: "max_tokens",
      says: "4097",
    },
  ] as const
  for (const { name, prompt, fields, reason, field, says } of cases) {
    it.effect(`name ${name}`, () => {
      const executor = new ScriptedExecutor({ outputs: () => [] })
      return Effect.gen(function* () {
        const engine = yield* Engine
        const error = yield* Effect.flip(collect(engine, request(prompt, fields as never)))
        assert.strictEqual(error.reason, reason)
        assert.strictEqual(error.field, field)
        assert.include(error.detail, says)
        yield* assertIdle(executor)
        assert.strictEqual(executor.stepCalls, 0)
      }).pipe(Effect.provide(engineLayer(executor)))
    })
  }

  it.effect("name a full queue with both numbers, and leave those in it alone", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 10, slots: 1 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const accepted = yield* Effect.forEach([0, 1, 2], () => Effect.forkChild(collect(engine, request([5]))))
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* engine.status).waiting, 2)
        const error = yield* Effect.flip(collect(engine, request([5])))
        assert.strictEqual(error.reason, "QueueFull")
        assert.include(error.detail, "2 requests are waiting, at most 2 may")
        yield* TestClock.adjust("10 seconds")
        for (const fiber of accepted) assert.strictEqual((yield* Fiber.join(fiber)).tokens.length, 16)
        yield* assertIdle(executor)
      }).pipe(Effect.provide(engineLayer(executor, { maxWaiting: 2 })))
    }),
  )

  it.effect("include a second one under the id of a running one", () => {
    const executor = new ScriptedExecutor({ outputs: () => [10] })
    return Effect.gen(function* () {
      const engine = yield* Engine
      const twin = request([5])
      yield* engine.generate(twin)
      const error = yield* Effect.flip(Effect.scoped(engine.generate(twin)))
      assert.strictEqual(error.field, "request_id")
    }).pipe(Effect.scoped, Effect.provide(engineLayer(executor)))
  })
})

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
        yield* TestClock.adjust(10)
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
        const unread = yield* engine.generate(request([5], { maxTokens: 1_000 }))
        const reader = yield* Effect.forkChild(collect(engine, request([6], { maxTokens: 100 })))
        yield* TestClock.adjust("20 seconds")
        const { finished } = yield* Fiber.join(reader)
        // A hundred steps, after the one that was under way.
        assert.strictEqual(finished.times.finishedMicros, 1_010_000)
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
        const stream = yield* engine.generate(request([5], { maxTokens: 3 }))
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

describe("an executor that fails", () => {
  const lost = new ExecutorError({ reason: "DeviceLost", operation: "step 3", detail: "device 0 fell off the bus" })

  it.effect("fails the requests of its step, naming operation and detail; those that wait are served", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({
        outputs: () => [10],
        stepMillis: 10,
        slots: 2,
        failStep: (call) => (call === 3 ? lost : undefined),
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
          assert.strictEqual(error.detail, "step 3: device 0 fell off the bus")
        }
        assert.strictEqual((yield* Fiber.join(waiting)).tokens.length, 16)
        const status = yield* engine.status
        assert.isTrue(status.healthy)
        assert.strictEqual(status.failures, 0)
        assert.strictEqual(status.lastFailure, "step 3: device 0 fell off the bus")
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

  it.effect("fails a request whose slot it cannot open, and closes only slots that it opened", () =>
    Effect.gen(function* () {
      const failure = new ExecutorError({ reason: "OutOfMemory", operation: "open slot", detail: "no workspace" })
      let refusals = 1
      const executor = new ScriptedExecutor({
        outputs: () => [10],
        failOpen: () => (refusals-- > 0 ? failure : undefined),
      })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const error = yield* Effect.flip(collect(engine, request([5])))
        assert.strictEqual(error.detail, "open slot: no workspace")
        assert.strictEqual((yield* collect(engine, request([5]))).tokens.length, 16)
        yield* assertIdle(executor)
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

/** Nothing runs, waits or is owned, in the scheduler and in the executor; and the books balance. */
function assertIdle(executor: ScriptedExecutor) {
  return Effect.gen(function* () {
    const engine = yield* Engine
    // Slots are closed by the loop's own fiber.
    yield* Effect.yieldNow
    const { running, waiting, slabsUsed, healthy } = yield* engine.status
    assert.deepStrictEqual(
      { running, waiting, slabsUsed, healthy },
      { running: 0, waiting: 0, slabsUsed: 0, healthy: true },
    )
    assert.strictEqual(executor.runner.openSlots, 0)
  })
}

function provideTokenizer<A, E>(effect: Effect.Effect<A, E, Tokenizer>) {
  return Effect.provide(effect, Tokenizer.layer({ directory: needle }))
}
