import { assert, describe, it } from "@effect/vitest"
import { Engine } from "@uniprefill/engine/Engine"
import { Effect, Fiber } from "effect"
import { TestClock } from "effect/testing"
import { assertIdle, collect, engineLayer, request } from "./EngineHarness.ts"
import { ScriptedExecutor } from "./ScriptedExecutor.ts"

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
      name: "p of other drop layers",
      prompt: [1],
      fields: { p: [0.5] },
      reason: "InvalidRequest",
      field: "p",
      says: "one share for each of the 2 drop layers, got 0.5",
    },
    {
      name: "half a priority",
      prompt: [1],
      fields: { priority: 0.5 },
      reason: "InvalidRequest",
      field: "priority",
      says: "must be an integer, got 0.5",
    },
    {
      name: "a deadline before the arrival",
      prompt: [1],
      fields: { firstTokenWithinMicros: -5 },
      reason: "InvalidRequest",
      field: "ttft_slo_ms",
      says: "got -5 µs",
    },
    {
      name: "a tenant too long to remember",
      prompt: [1],
      fields: { tenant: "x".repeat(257) },
      reason: "InvalidRequest",
      field: "tenant",
      says: "at most 256 characters, got 257",
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

  it.effect("tell beforehand whether several requests fit together, now or ever", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 10, slots: 1 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const why = (requests: number, promptTokens: number) =>
          Effect.match(engine.room(requests, promptTokens), {
            onSuccess: () => "room",
            onFailure: ({ reason, detail }) => `${reason}: ${detail}`,
          })
        assert.strictEqual(yield* why(4, 100), "room")
        assert.strictEqual(yield* why(1, 101), "room")
        assert.strictEqual(yield* why(5, 5), "TooLong: 0 requests are waiting and 5 more come, at most 4 may")
        assert.strictEqual(
          yield* why(2, 101),
          "TooLong: 0 prompt tokens are waiting and 101 more come, at most 100 may",
        )
        const prompt = Array.from({ length: 30 }, () => 5)
        const accepted = yield* Effect.forEach([0, 1, 2], () => Effect.forkChild(collect(engine, request(prompt))))
        yield* TestClock.adjust(1)
        assert.strictEqual((yield* engine.status).waiting, 2)
        assert.strictEqual(yield* why(2, 40), "room")
        assert.strictEqual(yield* why(3, 3), "QueueFull: 2 requests are waiting and 3 more come, at most 4 may")
        assert.strictEqual(
          yield* why(1, 41),
          "QueueFull: 60 prompt tokens are waiting and 41 more come, at most 100 may",
        )
        yield* TestClock.adjust("10 seconds")
        for (const fiber of accepted) yield* Fiber.join(fiber)
        yield* assertIdle(executor)
        yield* engine.drain
        assert.match(yield* why(1, 1), /^Draining: /)
      }).pipe(Effect.provide(engineLayer(executor, { maxWaiting: 4, maxWaitingTokens: 100 })))
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
