import { assert, describe, it } from "@effect/vitest"
import { Engine } from "@uniprefill/engine/Engine"
import { ExecutorError } from "@uniprefill/executor/contract/Executor"
import { Effect, Exit, Fiber, Option } from "effect"
import { TestClock } from "effect/testing"
import fc from "fast-check"
import { collectAll, engineLayer, request } from "./EngineHarness.ts"
import { ScriptedExecutor } from "./ScriptedExecutor.ts"

const aRequest = fc.record({
  promptLength: fc.oneof(fc.integer({ min: 1, max: 200 }), fc.integer({ min: 1_024, max: 1_500 })),
  maxTokens: fc.integer({ min: 1, max: 60 }),
  answers: fc.constantFrom(1, 1, 2, 5),
  arrivesMillis: fc.integer({ min: 0, max: 600 }),
  /** Reads this long, then leaves; undefined stays to the end. */
  leavesAfterMillis: fc.option(fc.integer({ min: 0, max: 600 }), { nil: undefined }),
  drop: fc.boolean(),
})

const run = fc.record({
  requests: fc.array(aRequest, { minLength: 1, maxLength: 12 }),
  failingSteps: fc.uniqueArray(fc.integer({ min: 0, max: 80 }), { maxLength: 3 }),
  slots: fc.integer({ min: 1, max: 6 }),
  slabs: fc.integer({ min: 160, max: 400 }),
  maxStepsInFlight: fc.constantFrom(1, 2),
})

const failure = new ExecutorError({ reason: "LaunchFailed", operation: "step", detail: "as the test asked" })

describe("any mix of requests, departures and failures", () => {
  it.effect("ends each request as it should, and leaves nothing owned", () =>
    Effect.gen(function* () {
      for (const plan of fc.sample(run, { numRuns: 40, seed: 7 })) yield* check(plan)
    }),
  )
})

/** Output token n of a request whose first prompt token is `key`. */
const script = (key: number, count: number) => Array.from({ length: count }, (_, n) => (key * 64 + n) % 4_096)

const check = (plan: typeof run extends fc.Arbitrary<infer T> ? T : never) => {
  const executor = new ScriptedExecutor({
    outputs: ([key]) => script(key!, 60),
    stepMillis: 10,
    slots: plan.slots,
    slabs: plan.slabs,
    failStep: (call) => (plan.failingSteps.includes(call) ? failure : undefined),
  })
  return Effect.gen(function* () {
    const engine = yield* Engine
    const fibers = yield* Effect.forEach(plan.requests, (one, key) => {
      const prompt = [key, ...Array.from({ length: one.promptLength - 1 }, () => 3)]
      const { answers, maxTokens, drop } = one
      const whole = Effect.exit(collectAll(engine, request(prompt, { answers, maxTokens, drop })))
      const read = Effect.timeoutOption(whole, one.leavesAfterMillis ?? 3_600_000)
      return Effect.forkChild(Effect.delay(read, one.arrivesMillis))
    })
    yield* TestClock.adjust("2 minutes")
    for (const [key, fiber] of fibers.entries()) {
      const outcome = yield* Fiber.join(fiber)
      if (Option.isNone(outcome)) continue
      const exit = outcome.value
      if (Exit.isSuccess(exit)) {
        const { answers, maxTokens, promptLength } = plan.requests[key]!
        assert.strictEqual(exit.value.length, answers)
        for (const { tokens, finished } of exit.value) {
          assert.deepStrictEqual(tokens, script(key, maxTokens))
          assert.strictEqual(finished.reason, "length")
          assert.strictEqual(finished.promptTokens, promptLength)
        }
      } else assert.include(String(exit.cause), "as the test asked")
    }
    const { running, waiting, slabsUsed, lastFailure } = yield* engine.status
    assert.deepStrictEqual({ running, waiting, slabsUsed }, { running: 0, waiting: 0, slabsUsed: 0 })
    assert.strictEqual(executor.device.openSlots, 0)
    assert.strictEqual(executor.stored.size, 0)
    // Nothing but the failures asked for: no invariant broke.
    if (lastFailure !== null) assert.strictEqual(lastFailure, "step: as the test asked")
  }).pipe(Effect.provide(engineLayer(executor, { maxStepsInFlight: plan.maxStepsInFlight })))
}
