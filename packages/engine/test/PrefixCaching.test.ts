import { assert, describe, it } from "@effect/vitest"
import { Engine } from "@uniprefill/engine/Engine"
import { PageKeys } from "@uniprefill/engine/PageKeys"
import type { RecordedEvent, RecordingHeader } from "@uniprefill/recording/Recording"
import { decodeRecording, encodeLine } from "@uniprefill/recording/RecordingCodec"
import { replay } from "@uniprefill/recording/Replay"
import type { Calibration } from "@uniprefill/cost-model/Calibration"
import { costModelOf } from "@uniprefill/cost-model/CostModelOf"
import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { Effect } from "effect"
import { assertIdle, collect, collectAll, engineLayer, request, settle } from "./EngineHarness.ts"
import { ReferenceMachine } from "./ReferenceHarness.ts"
import { schedule, ScriptedExecutor, spec } from "./ScriptedExecutor.ts"

const promptOf = (length: number, first: number) => Array.from({ length }, (_, i) => (i === 0 ? first : 10 + (i % 50)))

describe("equal prefixes", () => {
  it.effect("are computed once: by prompts that drop, by prompts that do not, and over generated tokens", () => {
    const executor = new ScriptedExecutor({ outputs: () => Array.from({ length: 100 }, (_, i) => 20 + i) })
    return Effect.gen(function* () {
      const engine = yield* Engine
      const cached = (prompt: ReadonlyArray<number>, fields = {}) =>
        Effect.map(collect(engine, request(prompt, fields)), ({ finished }) => finished.cachedTokens)
      const long = promptOf(1500, 3)
      assert.strictEqual(yield* cached(long), 0)
      // 23 full pages of 64 rows; with a selection behind them not even the last row is computed again.
      assert.strictEqual(yield* cached(long), 23 * 64)
      assert.strictEqual(yield* cached([...long, 7, 7]), 23 * 64)
      assert.strictEqual(yield* cached(promptOf(1500, 4)), 0)
      // Dense requests need every layer of the page, which those above did not compute.
      assert.strictEqual(yield* cached(long, { drop: false }), 0)
      const short = promptOf(100, 5)
      const { tokens } = yield* collect(engine, request(short, { maxTokens: 100 }))
      // 199 rows are in pages: the token sampled last is in none.
      assert.strictEqual(yield* cached([...short, ...tokens, 9]), 192)
      yield* assertIdle(executor)
    }).pipe(Effect.provide(engineLayer(executor)))
  })

  it.effect("hold what requests that drop have generated, and change no answer", () => {
    const sampling = { temperature: 3, seed: 5n }
    const turns = (prefixCaching: boolean, maxStepsInFlight: 1 | 2) =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const first = promptOf(300, 3)
        const answers = yield* collectAll(engine, request(first, { answers: 2, maxTokens: 100, sampling }))
        const second = (answer: number) =>
          collect(engine, request([...first, ...answers[answer]!.tokens, 7, 8, 9], { maxTokens: 40, sampling }))
        return yield* Effect.forEach([second(0), second(1), second(1)], (turn) => turn)
      }).pipe(Effect.provide(new ReferenceMachine().engine({ prefixCaching, maxStepsInFlight })))
    return Effect.gen(function* () {
      const without = yield* turns(false, 1)
      for (const maxStepsInFlight of [1, 2] as const) {
        const cached = yield* turns(true, maxStepsInFlight)
        // Of 300 prompt tokens and 99 generated ones in pages, six pages of 64 rows.
        assert.deepStrictEqual(
          cached.map(({ finished }) => finished.cachedTokens),
          [384, 384, 384],
        )
        for (const [i, { text, tokens, finished }] of cached.entries()) {
          const plain = without[i]!
          assert.strictEqual(plain.finished.cachedTokens, 0)
          assert.deepStrictEqual({ text, tokens }, { text: plain.text, tokens: plain.tokens })
          assert.deepStrictEqual(finished.bitmaps, plain.finished.bitmaps)
          assert.isBelow(finished.kept[1]!, 1)
        }
      }
    })
  })

  it.effect("of other tenants or salts are not found, nor any where caching is off", () => {
    const sharing = [
      { tenant: "a" },
      { tenant: "b" },
      { tenant: "a" },
      { tenant: "a", cacheSalt: "s" },
      { tenant: "a", cacheSalt: "s" },
      { tenant: "a", cacheSalt: "t" },
      { tenant: "b", cacheSalt: "s" },
    ]
    const run = (prefixCaching: boolean) =>
      Effect.gen(function* () {
        const engine = yield* Engine
        const cached: Array<number> = []
        for (const fields of sharing) {
          const { finished } = yield* collect(engine, request(promptOf(200, 3), fields))
          cached.push(finished.cachedTokens)
        }
        return cached
      }).pipe(Effect.provide(engineLayer(new ScriptedExecutor({ outputs: () => [] }), { prefixCaching })))
    return Effect.gen(function* () {
      assert.deepStrictEqual(yield* run(true), [0, 0, 192, 0, 192, 0, 0])
      assert.deepStrictEqual(yield* run(false), [0, 0, 0, 0, 0, 0, 0])
    })
  })
})

describe("page keys", () => {
  it("depend on every token before, not on how they came", () => {
    const keys = (pieces: ReadonlyArray<ReadonlyArray<number>>) => {
      const chain = PageKeys.make("model", "", "", 64)
      return pieces.flatMap((piece) => chain.push(Int32Array.from(piece)))
    }
    const tokens = promptOf(200, 1)
    const whole = keys([tokens])
    assert.strictEqual(whole.length, 3)
    assert.deepStrictEqual(keys([tokens.slice(0, 63), [], tokens.slice(63, 65), tokens.slice(65)]), whole)
    const other = keys([promptOf(200, 2)])
    assert.isTrue(whole.every((key, page) => key !== other[page]))
  })

  it("differ by tenant and salt, whatever characters those hold", () => {
    const names = ["", "a", "b", "a\0b", "\0", '","', "\ud800", "\ud801", "\ufffd"]
    const first = names.flatMap((tenant) =>
      names.map((salt) => PageKeys.make("model", tenant, salt, 64).push(new Int32Array(64))[0]),
    )
    assert.strictEqual(new Set(first).size, names.length ** 2)
  })
})

describe("a recording of the engine", () => {
  const shape = inSixteenBits(spec)
  const layout = makeKvLayout(spec, schedule, { pageSize: 64, kvElementBytes: 2, carryElementBytes: 2 })
  const calibration: Calibration = {
    format: "uniprefill-calibration",
    version: 3,
    device: "test",
    source: "assumed",
    note: "",
    gemm: [{ at: 1, teraFlops: 0.001 }],
    attention: [{ at: 1, teraFlops: 0.001 }],
    copyTeraBytes: 0.001,
    stepMicros: 50,
    itemMicros: 20,
  }
  const costModel = costModelOf({ calibration, shape, layout, lastQ: 128, maxRowsPerStep: 8192 })

  it.effect("replays plan by plan, without text or tokens in it", () => {
    const lines: Array<RecordingHeader | RecordedEvent> = []
    const executor = new ScriptedExecutor({ outputs: () => [], slots: 2 })
    return Effect.gen(function* () {
      const engine = yield* Engine
      yield* Effect.forEach(
        [promptOf(1500, 3), promptOf(1500, 3), promptOf(300, 4)],
        (prompt) => collect(engine, request(prompt, { tenant: "secret tenant" })),
        { concurrency: 3 },
      )
      // The slots of the last ones are closed by a step of its own.
      yield* settle
      const [header, ...events] = lines
      const report = replay(header as RecordingHeader, events as Array<RecordedEvent>)
      assert.isNull(report.difference)
      assert.strictEqual(report.plans, executor.stepCalls)
      assert.notInclude(JSON.stringify(lines), "secret")
    }).pipe(
      Effect.provide(
        engineLayer(executor, { costModel, record: { code: "test", write: (line) => void lines.push(line) } }),
      ),
    )
  })

  it.effect("replays which prompts were lowered for first tokens that would have been late", () => {
    const lines: Array<RecordingHeader | RecordedEvent> = []
    const executor = new ScriptedExecutor({ outputs: () => [], slots: 2 })
    return Effect.gen(function* () {
      const engine = yield* Engine
      const answers = yield* Effect.forEach(
        [{}, { firstTokenWithinMicros: 1 }, { firstTokenWithinMicros: 1, minP: 0.9 }],
        (fields) => collect(engine, request(promptOf(1500, 3), fields)),
      )
      assert.deepStrictEqual(
        answers.map(({ finished }) => finished.lowered),
        [false, true, false],
      )
      yield* settle
      const { header, events } = decodeRecording(lines.map(encodeLine).join("\n"))
      assert.isNull(replay(header, events).difference)
      const { sloP, ...limits } = header.limits
      assert.strictEqual(sloP, 0.6)
      assert.isNotNull(replay({ ...header, limits }, events).difference)
    }).pipe(
      Effect.provide(
        engineLayer(executor, {
          costModel,
          sloP: 0.6,
          record: { code: "test", write: (line) => void lines.push(line) },
        }),
      ),
    )
  })
})
