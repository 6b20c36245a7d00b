/**
 * Makes cpu.recording.jsonl.gz: two hundred requests served by the engine over the native CPU executor and the embedded model, in
 * little memory and with two steps in flight: several answers to a prompt, second turns of conversations, clients that go away, stop
 * strings. Timing decides what comes when, so no two runs are equal; any of them replays.
 *
 * Run: node --conditions=source test/golden/makeRecording.ts [FILE]
 */
import { dirname } from "node:path"
import { fileURLToPath } from "node:url"
import { NodeServices } from "@effect/platform-node"
import type { Calibration } from "@uniprefill/cost-model/Calibration"
import { costModelOf } from "@uniprefill/cost-model/CostModelOf"
import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { type AnswerStream, Engine, type GenerateRequest } from "@uniprefill/engine/Engine"
import * as EngineLayer from "@uniprefill/engine/EngineLayer"
import { layerCpu } from "@uniprefill/executor-native/NativeExecutor"
import { Executor, greedy } from "@uniprefill/executor/contract/Executor"
import { openRecording, readRecording } from "@uniprefill/recording/RecordingFile"
import { replay } from "@uniprefill/recording/Replay"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { Tokenizer } from "@uniprefill/tokenizer/Tokenizer"
import { Effect, Fiber, Layer, Stream } from "effect"

const file = process.argv[2] ?? fileURLToPath(new URL("cpu.recording.jsonl.gz", import.meta.url))
const directory = dirname(fileURLToPath(import.meta.resolve("@uniprefill/needle-10m-deep/package.json")))
const requests = 200
/** Those of them that are the second turn of a conversation. */
const conversations = 20

/** A generator of its own, so that the requests at least are always the same. */
let state = 20_260_101
const draw = (below: number): number => {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
  return Math.floor((state / 0x1_0000_0000) * below)
}

const calibration: Calibration = {
  format: "uniprefill-calibration",
  version: 3,
  device: "cpu, 1 thread",
  source: "assumed",
  note: "a current server core",
  gemm: [{ at: 1, teraFlops: 0.06 }],
  attention: [{ at: 1, teraFlops: 0.03 }],
  copyTeraBytes: 0.01,
  stepMicros: 100,
  itemMicros: 20,
}

const program = Effect.gen(function* () {
  const model = yield* loadModelDirectory(directory, { dropSchedule: undefined }).pipe(Effect.provide(NodeServices.layer))
  const { spec, schedule } = model
  const recording = yield* openRecording(file)
  const executor = layerCpu({
    model,
    schedule,
    memoryBytes: 21 * 1024 * 1024,
    pageSize: 64,
    slots: 24,
    maxTokens: 4096,
    threads: 1,
  })
  const engine = Layer.unwrap(
    Effect.gen(function* () {
      const { info } = yield* Executor
      return EngineLayer.layer({
        spec,
        schedule,
        costModel: costModelOf({
          calibration,
          shape: inSixteenBits(spec),
          layout: info.layout,
          lastQ: schedule.lastQ,
          maxRowsPerStep: info.maxRowsPerStep,
        }),
        modelName: "needle-10m-deep",
        stepBudgetMicros: 30_000,
        idleStepBudgetMicros: 100_000,
        protectAfter: 4,
        maxStepsInFlight: 2,
        record: { write: recording.write, code: "test/golden/makeRecording.ts" },
      })
    }),
  )
  yield* serveAll(spec.vocabSize).pipe(
    Effect.provide(engine.pipe(Layer.provide(executor), Layer.provideMerge(Tokenizer.layer({ directory })))),
  )
})

const serveAll = (vocabSize: number) =>
  Effect.gen(function* () {
    const { generate, status } = yield* Engine
    const family = [0, 1, 2].map(() => Array.from({ length: 1500 }, () => 10 + draw(vocabSize - 10)))
    const ends: Record<string, number> = {}
    const fibers: Array<Fiber.Fiber<unknown, unknown>> = []
    /** Reads every answer to its end, or for so long; returns the tokens of the first. */
    const ask = (request: GenerateRequest, leavesAfterMillis?: number) =>
      Effect.scoped(
        Effect.gen(function* () {
          const tokens: Array<number> = []
          const streams = yield* generate(request)
          const read = (stream: AnswerStream, answer: number) =>
            Stream.runForEach(stream, (event) =>
              Effect.sync(() => {
                if (event._tag === "Output" && answer === 0) tokens.push(...event.tokens)
                if (event._tag !== "Finished") return
                const end = typeof event.stopReason === "string" ? "stop string" : event.reason
                ends[end] = (ends[end] ?? 0) + 1
              }),
            )
          const all = Effect.forEach(streams, read, { concurrency: "unbounded", discard: true })
          yield* leavesAfterMillis === undefined ? all : Effect.timeoutOption(all, leavesAfterMillis)
          return tokens
        }),
      )
    for (let i = 0; i < requests - conversations; i++) {
      // Every ninth goes on when it has its answer, half of those with a prompt that drops.
      const goesOn = i % 9 === 0
      const drop = goesOn ? i % 18 === 0 : draw(3) > 0
      const length = (goesOn ? drop : draw(8) === 0) ? 1024 + draw(200) : 20 + draw(250)
      const shared = draw(4) > 0 ? family[draw(3)]!.slice(0, 64 * draw(8)) : []
      const own = Array.from({ length: length - Math.min(shared.length, length - 1) }, () => 10 + draw(vocabSize - 10))
      const prompt = [...shared, ...own].slice(0, length)
      const request: GenerateRequest = {
        requestId: `request ${i}`,
        prompt: Int32Array.from(prompt),
        answers: draw(5) === 0 ? 2 + draw(3) : 1,
        maxTokens: goesOn ? 150 : 1 + draw(draw(2) === 0 ? 200 : 12),
        sampling: { ...greedy, temperature: 1, seed: BigInt(i) },
        stop: draw(3) === 0 ? ["a", "1"] : [],
        includeStop: false,
        skipSpecialTokens: true,
        drop,
        minP: undefined,
        priority: 0,
      }
      const leavesAfterMillis = draw(8) === 0 && !goesOn ? draw(400) : undefined
      const second = (tokens: ReadonlyArray<number>) =>
        ask({ ...request, prompt: Int32Array.from([...prompt, ...tokens, 11, 12]), answers: 1, maxTokens: 20 })
      const first = ask(request, leavesAfterMillis)
      fibers.push(yield* Effect.forkChild(goesOn ? Effect.flatMap(first, second) : first))
      yield* Effect.sleep(draw(12))
    }
    for (const fiber of fibers) yield* Fiber.await(fiber)
    while ((yield* status).stepInFlight > 0) yield* Effect.sleep(1)
    console.log("ended:", ends)
  })

await Effect.runPromise(Effect.scoped(program))
const { header, events } = await Effect.runPromise(readRecording(file))
console.log(replay(header, events))
