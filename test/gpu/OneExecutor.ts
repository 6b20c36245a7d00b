import { readFileSync } from "node:fs"
import { NodeServices } from "@effect/platform-node"
import { type Calibration, decodeCalibration } from "@uniprefill/cost-model/Calibration"
import { Engine, type GenerateRequest } from "@uniprefill/engine/Engine"
import { layerCpu, layerCuda } from "@uniprefill/executor-native/NativeExecutor"
import { Executor, greedy } from "@uniprefill/executor/contract/Executor"
import { loadModelDirectory, type ModelDirectory } from "@uniprefill/model/ModelDirectory"
import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Effect, Layer, References, Stream } from "effect"
import * as EngineLive from "uniprefill/model/EngineLive"
import type { ModelSettings } from "uniprefill/options/ModelOptions"
import { settingsOf } from "./ServerDefaults.ts"
import type { Device } from "../conformance/Machine.ts"
import { offsetSteps } from "../conformance/OffsetSteps.ts"

/** What random weights keep is given: shares of the prompt's rows, exchanged between requests. Empty: what scores choose. */
export interface Keeps {
  shares: ReadonlyArray<number>
}

export interface OneExecutorOptions {
  readonly device: Device
  readonly model: string
  readonly keeps: Keeps
  readonly calibration: string | undefined
  readonly slots: number
  readonly tensorParallel: number
}

/** An executor that is started once, for one engine after another. */
export class OneExecutor {
  readonly model: ModelDirectory
  readonly executor: Executor["Service"]
  readonly calibration: Calibration | undefined
  private readonly options: OneExecutorOptions
  private last = { steps: 0, contents: 0 }

  private constructor(options: OneExecutorOptions, model: ModelDirectory, executor: Executor["Service"]) {
    this.options = options
    this.model = model
    this.executor = executor
    const { calibration: file } = options
    if (file !== undefined) this.calibration = decodeCalibration(JSON.parse(readFileSync(file, "utf8")))
  }

  static readonly open = Effect.fnUntraced(function* (options: OneExecutorOptions) {
    const { device, slots, keeps, tensorParallel } = options
    const model = yield* loadModelDirectory(options.model).pipe(Effect.provide(NodeServices.layer))
    const { schedule } = model
    // Read anew for each request.
    const keepProfile = {
      get shares() {
        return keeps.shares
      },
      seed: 1,
    }
    const common = {
      model,
      schedule,
      slots,
      tensorParallel,
      keepProfile: keeps.shares.length === 0 ? null : keepProfile,
    }
    const layer =
      device === "cuda"
        ? layerCuda(common)
        : layerCpu({ ...common, memoryBytes: 2 ** 30, maxRowsPerStep: 8192, threads: 2 })
    const executor = yield* Effect.provideContext(Executor, yield* Layer.build(layer))
    return new OneExecutor(options, model, executor)
  })

  /** Runs on a fresh engine over the executor, prompts computed from their first token. */
  engine<A, E>(
    settings: Partial<ModelSettings>,
    use: (engine: Engine["Service"]) => Effect.Effect<A, E>,
    over: (executor: Executor["Service"]) => Executor["Service"] = (same) => same,
  ) {
    const { executor, options } = this
    return Effect.gen({ self: this }, function* () {
      const shifted = offsetSteps(executor, this.last)
      const all = {
        ...settingsOf(options.model),
        executor: options.device,
        "tensor-parallel-size": options.tensorParallel,
        "prefix-caching": "off",
        ...(options.calibration === undefined ? {} : { "cost-model": options.calibration }),
        ...settings,
      } as ModelSettings
      const result = yield* Effect.scoped(
        Effect.gen(function* () {
          const layer = EngineLive.layer(all, [], () => Layer.succeed(Executor, over(shifted)))
          const services = yield* Layer.build(layer)
          const engine = yield* Effect.provideContext(Engine, services)
          const used = yield* use(engine)
          // Steps under way end before another engine takes the executor.
          while ((yield* engine.status).stepInFlight > 0) yield* Effect.sleep(1)
          return used
        }),
      )
      this.last = shifted.last()
      yield* reset(executor, this.last.steps + 1)
      return result
    }).pipe(Effect.provideService(References.MinimumLogLevel, "Warn"))
  }
}

/** An executor whose step fails has forgotten everything but contents. */
const reset = Effect.fnUntraced(function* (executor: Executor["Service"], step: number) {
  const plan = new StepPlan()
  plan.clear(step)
  plan.closes.push(-1)
  yield* executor.enqueue(plan)
  yield* Effect.flip(executor.nextResult)
})

export interface Answer {
  readonly ttftMs: number
  /** From the first token to the last, a token; NaN for one token. */
  readonly tpotMs: number
  readonly arrivedMicros: number
  /** When events with tokens were read, on the clock of performance.now(). */
  readonly tokenMs: ReadonlyArray<number>
  readonly kept: ReadonlyArray<number>
}

let requests = 0

/** Asks for tokens of no meaning: every prompt is drawn, every answer has `maxTokens`. `seen` hears of each event with tokens. */
export const ask = (
  engine: Engine["Service"],
  request: Pick<GenerateRequest, "maxTokens" | "drop"> & { readonly length: number },
  seen: (tokens: number) => void = () => {},
) =>
  Effect.scoped(
    Effect.gen(function* () {
      const { length, maxTokens, drop } = request
      const number = ++requests
      const [events] = yield* engine.generate({
        requestId: `request ${number}`,
        prompt: Int32Array.from(
          { length },
          (_, i) => 10 + (((Math.imul(i + 1, 0x9e37_79b1) + 7919 * number) >>> 0) % 500),
        ),
        maxTokens,
        sampling: { ...greedy, allowedTokenIds: [10] },
        stop: [],
        includeStop: false,
        skipSpecialTokens: true,
        drop,
        minP: undefined,
        priority: 0,
      })
      const tokenMs: Array<number> = []
      let answer: Answer | undefined
      yield* Stream.runForEach(events, (event) =>
        Effect.sync(() => {
          if (event._tag === "Output") {
            if (event.tokens.length === 0) return
            tokenMs.push(performance.now())
            seen(event.tokens.length)
            return
          }
          const { arrivedMicros, firstTokenMicros, finishedMicros } = event.times
          answer = {
            ttftMs: (firstTokenMicros - arrivedMicros) / 1000,
            tpotMs: (finishedMicros - firstTokenMicros) / 1000 / (event.completionTokens - 1),
            arrivedMicros,
            tokenMs,
            kept: event.kept,
          }
        }),
      )
      return answer!
    }),
  )
