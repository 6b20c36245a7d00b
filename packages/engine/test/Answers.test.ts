import { assert, describe, it } from "@effect/vitest"
import { Engine, EngineError } from "@uniprefill/engine/Engine"
import type { EngineConfig } from "@uniprefill/engine/EngineLayer"
import { ExecutorError } from "@uniprefill/executor/contract/Executor"
import { Effect, Fiber, Metric, Stream } from "effect"
import { PrometheusMetrics } from "effect/observability"
import {
  assertIdle,
  collect,
  collectAll,
  elapse,
  engineLayer,
  type Generated,
  request,
  settle,
} from "./EngineHarness.ts"
import { ReferenceMachine } from "./ReferenceHarness.ts"
import { ScriptedExecutor } from "./ScriptedExecutor.ts"

const promptOf = (length: number) => Array.from({ length }, (_, i) => 300 + ((i * 7) % 90))

const sampling = { temperature: 4, seed: 7n }

/** What must not depend on how an answer was computed. */
const essence = ({ text, tokens, finished }: Generated) => {
  const { reason, stopReason, promptTokens, completionTokens, kept, bitmaps } = finished
  return { text, tokens, reason, stopReason, promptTokens, completionTokens, kept, bitmaps }
}

describe("the answers to one prompt", () => {
  const cases: ReadonlyArray<{
    readonly name: string
    readonly length: number
    readonly drop?: boolean
    readonly machine?: ConstructorParameters<typeof ReferenceMachine>[0]
    readonly config?: Partial<EngineConfig>
    /** Prompt rows computed for four answers: the prompt's, once, unless it says more. */
    readonly rows?: number
  }> = [
    { name: "that drops", length: 300 },
    { name: "that drops, with two steps in flight", length: 300, config: { maxStepsInFlight: 2 } },
    { name: "that does not drop", length: 300, drop: false },
    { name: "that ends with a page", length: 128 },
    { name: "of one token", length: 1 },
    // Four pages of the prompt are found by the second and the third part.
    { name: "in parts where there are fewer slots", length: 300, machine: { slots: 3 }, rows: 300 + 300 - 256 },
    { name: "in parts where memory is short", length: 300, machine: { slabs: 40 }, rows: 300 + 300 - 256 },
    {
      name: "in parts without a cache",
      length: 300,
      machine: { slots: 2 },
      config: { prefixCaching: false },
      rows: 600,
    },
  ]
  for (const { name, length, drop = true, machine: options, config, rows = length } of cases) {
    it.effect(`${name} are those of as many requests with seeds of their own`, () => {
      const prompt = promptOf(length)
      const fields = { maxTokens: 40, drop }
      const machine = new ReferenceMachine(options)
      const alone = Effect.gen(function* () {
        const engine = yield* Engine
        return yield* Effect.forEach([0n, 1n, 2n, 3n], (i) => {
          const seed = BigInt.asUintN(64, sampling.seed + i)
          return collect(engine, request(prompt, { ...fields, sampling: { ...sampling, seed } }))
        })
      }).pipe(Effect.provide(new ReferenceMachine().engine({ prefixCaching: false })))
      return Effect.gen(function* () {
        const separate = yield* alone
        assert.strictEqual(new Set(separate.map(({ text }) => text)).size, 4)
        const engine = yield* Engine
        const together = yield* collectAll(engine, request(prompt, { ...fields, sampling, answers: 4 }))
        assert.deepStrictEqual(together.map(essence), separate.map(essence))
        assert.strictEqual(machine.promptRows, rows)
        // Each ends by itself, at a stop string too; cut short, they are still the same.
        const stop = separate.map(({ text }, i) => text.slice(3 + i, 6 + i))
        const cut = yield* collectAll(engine, request(prompt, { ...fields, sampling, stop, answers: 4 }))
        for (const [i, { text, finished }] of cut.entries()) {
          assert.strictEqual(finished.reason, "stop")
          assert.strictEqual(text, separate[i]!.text.slice(0, text.length))
          assert.isAtMost(text.length, 3 + i)
        }
        yield* settle
        assert.deepInclude(yield* engine.status, { running: 0, waiting: 0, slabsUsed: 0, healthy: true })
        assert.strictEqual(machine.runner.checkIntegrity().held, 0)
      }).pipe(Effect.provide(machine.engine(config)))
    })
  }

  it.effect("count their prompt once, and each its own tokens", () => {
    const executor = new ScriptedExecutor({ outputs: () => [10], stepMillis: 10 })
    return Effect.gen(function* () {
      const engine = yield* Engine
      const prompt = promptOf(1_100)
      yield* Effect.forkChild(collect(engine, request(prompt, { maxTokens: 1 })))
      yield* elapse(1_000)
      const three = request(prompt, { maxTokens: 4, answers: 3, sampling: { seed: 2n ** 64n - 2n } })
      const fiber = yield* Effect.forkChild(collectAll(engine, three))
      yield* elapse(1_000)
      assert.deepStrictEqual(
        executor.contents.slice(1).map((content) => content.sampling.seed),
        [2n ** 64n - 2n, 2n ** 64n - 1n, 0n],
      )
      for (const { finished } of yield* Fiber.join(fiber)) {
        assert.strictEqual(finished.cachedTokens, 1_088)
        assert.strictEqual(finished.kept.length, 3)
        assert.strictEqual(finished.bitmaps.length, 2)
        assert.deepStrictEqual(finished.times, {
          arrivedMicros: 1_000_000,
          firstScheduledMicros: 1_000_000,
          firstTokenMicros: 1_040_000,
          finishedMicros: 1_070_000,
        })
      }
      const text = yield* PrometheusMetrics.format()
      const value = (name: string) => Number(new RegExp(`^${name}\\{.*\\} (.*)$`, "m").exec(text)![1])
      assert.strictEqual(value("vllm:prompt_tokens_total"), 2 * 1_100)
      assert.strictEqual(value("vllm:request_prompt_tokens_count"), 2)
      assert.strictEqual(value("vllm:request_prefill_time_seconds_sum"), 0.06 + 0.04)
      assert.strictEqual(value("vllm:generation_tokens_total"), 1 + 3 * 4)
      assert.strictEqual(value("vllm:request_generation_tokens_count"), 1 + 3)
      assert.include(text, `vllm:request_success_total{model_name="needle",engine="0",finished_reason="length"} 4\n`)
    }).pipe(Effect.provide(engineLayer(executor)), Effect.provideService(Metric.MetricRegistry, new Map()))
  })
})

describe("the answers to one prompt end", () => {
  const executorOf = (slots: number) => new ScriptedExecutor({ outputs: () => [10], stepMillis: 10, slots })

  it.effect("with their reader, whatever they were doing", () => {
    const executor = executorOf(5)
    return Effect.gen(function* () {
      const engine = yield* Engine
      const ask = () => Effect.forkChild(collectAll(engine, request(promptOf(1_500), { maxTokens: 900, answers: 3 })))
      const decoding = yield* ask()
      yield* elapse(55)
      const waiting = yield* ask()
      yield* elapse(20)
      assert.deepInclude(yield* engine.status, { running: 3, waiting: 1 })
      yield* Fiber.interrupt(decoding)
      yield* elapse(25)
      // Its prompt is found in the cache but for the last page, and is being computed.
      assert.deepInclude(yield* engine.status, { running: 3, waiting: 0 })
      const behind = yield* ask()
      yield* elapse(1)
      for (const fiber of [waiting, behind]) yield* Fiber.interrupt(fiber)
      yield* elapse(30)
      yield* assertIdle(executor)
    }).pipe(Effect.provide(engineLayer(executor)))
  })

  it.effect("each by itself when one is not read", () => {
    const executor = executorOf(5)
    return Effect.gen(function* () {
      const engine = yield* Engine
      const [read, unread, other] = yield* engine.generate(request([5], { maxTokens: 100, answers: 3 }))
      const readers = [yield* Effect.forkChild(Stream.runCollect(read))]
      readers.push(yield* Effect.forkChild(Stream.runCollect(other!)))
      yield* elapse(2_000)
      for (const reader of readers) {
        const finished = (yield* Fiber.join(reader)).at(-1)
        assert.deepInclude(finished, { _tag: "Finished", reason: "length", completionTokens: 100 })
      }
      assert.strictEqual((yield* Effect.flip(Stream.runDrain(unread!))).reason, "SlowReader")
      yield* assertIdle(executor)
    }).pipe(Effect.scoped, Effect.provide(engineLayer(executor, { maxUnreadTokens: 32 })))
  })

  it.effect("all with the step that fails", () => {
    const failure = new ExecutorError({ reason: "LaunchFailed", operation: "step", detail: "as the test asked" })
    return Effect.forEach([0, 2, 3, 4, 10], (failing) => {
      const executor = new ScriptedExecutor({
        outputs: () => [10],
        failStep: (call) => (call === failing ? failure : undefined),
      })
      return Effect.gen(function* () {
        const engine = yield* Engine
        const twin = request(promptOf(1_500), { answers: 3 })
        const streams = yield* engine.generate(twin)
        const errors = yield* Effect.forEach(streams, (stream) => Effect.flip(Stream.runDrain(stream)), {
          concurrency: "unbounded",
        })
        for (const error of errors) assert.include(error.detail, "as the test asked")
        assert.strictEqual((yield* collectAll(engine, twin)).length, 3)
        yield* assertIdle(executor)
      }).pipe(Effect.scoped, Effect.provide(engineLayer(executor)))
    })
  })
})

describe("several answers are refused", () => {
  it.effect("by number, with the field's name", () => {
    const executor = new ScriptedExecutor({ outputs: () => [10] })
    return Effect.gen(function* () {
      const engine = yield* Engine
      for (const answers of [0, -1, 1.5, 65, Number.NaN]) {
        const error = yield* Effect.flip(collectAll(engine, request([5], { answers })))
        assert.deepInclude(error, { reason: "InvalidRequest", field: "n" })
        assert.include(error.detail, String(answers))
      }
      assert.strictEqual((yield* collectAll(engine, request([5], { answers: 64 }))).length, 64)
      yield* assertIdle(executor)
    }).pipe(Effect.provide(engineLayer(executor)))
  })

  it.effect("all where the queue takes only some, and nothing stays behind", () => {
    const executor = new ScriptedExecutor({ outputs: () => [10], slots: 2 })
    return Effect.gen(function* () {
      const engine = yield* Engine
      const six = request([5], { answers: 6 })
      const error: EngineError = yield* Effect.flip(collectAll(engine, six))
      assert.strictEqual(error.reason, "QueueFull")
      assert.include(error.detail, "2 requests are waiting, at most 2 may")
      yield* assertIdle(executor)
      assert.strictEqual((yield* collectAll(engine, { ...six, answers: 4 })).length, 4)
      yield* assertIdle(executor)
    }).pipe(Effect.provide(engineLayer(executor, { maxWaiting: 2 })))
  })

  it.effect("as one is, where even one could never fit", () => {
    const executor = new ScriptedExecutor({ outputs: () => [10], slabs: 8 })
    return Effect.gen(function* () {
      const engine = yield* Engine
      const ask = (answers: number) => Effect.flip(collectAll(engine, request(promptOf(900), { answers })))
      assert.deepStrictEqual(yield* ask(3), yield* ask(1))
      assert.deepInclude(yield* ask(3), { reason: "TooLong", field: "max_tokens" })
    }).pipe(Effect.provide(engineLayer(executor)))
  })
})
