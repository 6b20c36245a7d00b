import { assert, describe, it } from "@effect/vitest"
import { Engine, type GenerateEvent, takeAll } from "@uniprefill/engine/Engine"
import { pToQ32 } from "@uniprefill/model/DropSchedule"
import { type Duration, Effect, Exit, Fiber, Stream } from "effect"
import { TestClock } from "effect/testing"
import { assertIdle, collect, encode, engineLayer, provideTokenizer, request } from "./EngineHarness.ts"
import { ReferenceMachine } from "./ReferenceHarness.ts"
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
          lowered: false,
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

  it.effect("brings the last text and the end together, however late it is read", () =>
    Effect.gen(function* () {
      const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 10 })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const batchesOf = (maxTokens: number, readAfter: Duration.Input) =>
          Effect.scoped(
            Effect.gen(function* () {
              const [events] = yield* engine.generate(request([5], { maxTokens }))
              yield* Effect.sleep(readAfter)
              const batches = yield* Stream.runCollect(
                Stream.mapArray(events, (batch) => [batch.map((event) => event._tag)] as const),
              )
              return [...batches]
            }),
          )
        const prompt = yield* Effect.forkChild(batchesOf(3, 0))
        const late = yield* Effect.forkChild(batchesOf(3, "1 second"))
        yield* TestClock.adjust("2 seconds")
        assert.deepStrictEqual(yield* Fiber.join(prompt), [["Output"], ["Output"], ["Output", "Finished"]])
        assert.deepStrictEqual(yield* Fiber.join(late), [["Output", "Finished"]])
      }).pipe(Effect.provide(engineLayer(executor)))
    }),
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
        assert.deepStrictEqual(executor.contents[0]!.pQ32, [pToQ32(0.9), pToQ32(0.8)])
        const dense = yield* collect(engine, request(prompt, { maxTokens: 1, drop: false }))
        assert.deepStrictEqual(dense.finished.kept, [1])
        assert.isNull(executor.contents[1]!.pQ32)
        yield* collect(engine, request(prompt, { maxTokens: 1, p: [0.3, 0.6], minP: 0.5 }))
        assert.deepStrictEqual(executor.contents[2]!.pQ32, [pToQ32(0.5), pToQ32(0.6)])
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

  it.effect("begins with what the prompt's rows say of its tokens, where that is asked for", () => {
    const machine = new ReferenceMachine()
    const prompt = Array.from({ length: 300 }, (_, i) => 300 + ((i * 7) % 90))
    return Effect.gen(function* () {
      const engine = yield* Engine
      const plain = yield* collect(engine, request(prompt, { drop: false }))
      // Its pages are cached by now, and the schedule would drop half of it.
      const asked = yield* collect(engine, request(prompt, { promptLogprobs: 2 }))
      assert.deepStrictEqual(asked.tokens, plain.tokens)
      assert.deepStrictEqual(asked.finished.kept, [1])
      assert.strictEqual(asked.finished.cachedTokens, 0)
      const [first, ...others] = asked.events
      if (first?._tag !== "Output" || first.promptLogprobs === undefined) throw new Error("the prompt comes first")
      assert.isFalse(others.some((event) => "promptLogprobs" in event))
      assert.deepStrictEqual(
        first.promptLogprobs.map(([own]) => own![0]),
        prompt.slice(1),
      )
      for (const [own, most, next] of first.promptLogprobs) {
        assert.isAtMost(own![1], most![1])
        assert.isAtMost(next![1], most![1])
      }
    }).pipe(Effect.provide(machine.engine()))
  })

  it.effect("is the same to those who listen, who may hold it up, and whose mistakes are their own", () =>
    Effect.gen(function* () {
      const outputs = yield* encode("count 1212345")
      const executor = new ScriptedExecutor({ outputs: () => outputs })
      yield* Effect.gen(function* () {
        const engine = yield* Engine
        const ask = request([5], { maxTokens: outputs.length })
        const streamed = yield* collect(engine, ask)
        for (const pause of [null, Effect.yieldNow]) {
          const [listened] = yield* engine.generate({ ...ask, requestId: `listened ${pause === null}` })
          const heard: Array<GenerateEvent> = []
          yield* takeAll(listened, (events) => {
            heard.push(...events)
            return pause
          })
          const text = heard.map((event) => (event._tag === "Output" ? event.text : "")).join("")
          assert.strictEqual(text, streamed.text)
          assert.deepInclude(heard.at(-1), { _tag: "Finished", reason: "length", completionTokens: outputs.length })
        }
        const [mistaken] = yield* engine.generate({ ...ask, requestId: "mistaken" })
        const [other] = yield* engine.generate({ ...ask, requestId: "beside it" })
        const mistake = Effect.exit(
          takeAll(mistaken, () => {
            throw new Error("a mistake")
          }),
        )
        const [exit, events] = yield* Effect.all([mistake, Stream.runCollect(other)], { concurrency: 2 })
        assert.isTrue(Exit.hasDies(exit))
        assert.strictEqual(events.at(-1)!._tag, "Finished")
      }).pipe(Effect.scoped, Effect.andThen(assertIdle(executor)), Effect.provide(engineLayer(executor)))
    }).pipe(provideTokenizer),
  )
})
