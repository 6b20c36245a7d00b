import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { type KvLayout, makeKvLayout } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { StepResult } from "@uniprefill/scheduler/StepResult"
import { Clock, Effect, Layer } from "effect"
import { Executor, ExecutorError, type ExecutorInfo, type ExecutorReason, type SlotContent } from "./Executor.ts"
import { randomKeep } from "./KeepModel.ts"
import { SimulatedRunner } from "./SimulatedRunner.ts"

export interface SimulatedExecutorOptions {
  readonly spec: ModelSpec
  readonly schedule: DropSchedule
  /** How long a step takes, from the work that it does; made once the layout is known. */
  readonly costModel: (layout: KvLayout) => CostModel
  /** Seconds of the clock per second of the cost model: 1 is real time, 0.1 ten times as fast, 0 no waiting at all. */
  readonly timeScale: number
  /** Memory for K, V and carry rows. */
  readonly memoryBytes: number
  readonly pageSize?: number | undefined
  readonly slots?: number | undefined
  readonly maxRowsPerStep?: number | undefined
  readonly maxTokens?: number | undefined
  /** `echo` says the prompt again, over and over; `random` draws letters from the seed and the prompt. */
  readonly output?: "echo" | "random" | undefined
  /** Tokens that `random` draws from, but for those that end an output; the whole vocabulary by default. */
  readonly alphabet?: ReadonlyArray<number> | undefined
  /** Share of blocks that each selection keeps; the last one stands for those that follow. */
  readonly keep?: ReadonlyArray<number> | undefined
  readonly seed?: number | undefined
  /** Share of steps that fail, and with what: drawn from these in turn. */
  readonly failureRate?: number | undefined
  readonly failures?: ReadonlyArray<ExecutorReason> | undefined
}

export const simulatedDefaults = {
  pageSize: 128,
  slots: 64,
  maxRowsPerStep: 8192,
  output: "echo",
  keep: [0.5],
  seed: 0,
  failureRate: 0,
  failures: ["LaunchFailed", "OutOfMemory", "DeviceLost", "Internal"],
} as const

/** An Executor without a model: keeps the books of a real one, takes the time that the cost model says, and makes up the rest. */
export const layerSim = (options: SimulatedExecutorOptions): Layer.Layer<Executor, ExecutorError> =>
  Layer.effect(
    Executor,
    Effect.gen(function* () {
      const clock = yield* Clock.Clock
      const device = yield* Effect.try({
        try: () => new SimulatedDevice(options),
        catch: (cause) =>
          new ExecutorError({
            reason: "InvalidArgument",
            operation: "start simulated executor",
            detail: cause instanceof Error ? cause.message : String(cause),
          }),
      })
      const nowMicros = () => Number(clock.monotonicTimeNanosUnsafe() / 1000n)
      return Executor.of({
        info: device.info,
        openSlot: (content) => device.attempt(`open slot ${content.slot}`, () => device.openSlot(content)),
        closeSlot: (slot) => device.attempt(`close slot ${slot}`, () => device.closeSlot(slot)),
        step: (plan) =>
          Effect.suspend(() => {
            const step = device.step(plan, nowMicros())
            const end = step.failure === null ? Effect.succeed(step.result) : Effect.fail(step.failure)
            return step.waitMillis > 0 ? Effect.delay(end, step.waitMillis) : Effect.andThen(Effect.yieldNow, end)
          }),
      })
    }),
  )

class SimulatedDevice {
  readonly info: ExecutorInfo
  private readonly options: SimulatedExecutorOptions & typeof simulatedDefaults
  private readonly runner: SimulatedRunner
  private readonly costs: CostModel
  private readonly alphabet: ReadonlyArray<number>
  /** Contents by the key that the runner knows them by; those of closed slots are forgotten. */
  private readonly contents = new Map<number, SlotContent>()
  private readonly keys = new Map<number, number>()
  private nextKey = 1
  private steps = 0
  private failures = 0
  /** When the device is done with what it was given. */
  private freeMicros = 0

  constructor(given: SimulatedExecutorOptions) {
    const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
    const options = { ...simulatedDefaults, ...defined } as SimulatedExecutorOptions & typeof simulatedDefaults
    const { spec, schedule, memoryBytes, pageSize, slots, maxRowsPerStep, timeScale, failureRate } = options
    for (const [field, value] of Object.entries({ timeScale, failureRate, memoryBytes })) {
      if (!Number.isFinite(value) || value < 0) throw new RangeError(`${field} must be a number ≥ 0, got ${value}`)
    }
    this.options = options
    const layout = makeKvLayout(spec, schedule, { pageSize, kvElementBytes: 2, carryElementBytes: 4 })
    const hasStates = layout.stateSlotBytes > 0
    this.info = {
      device: timeScale === 0 ? "simulated, instant" : `simulated, ${timeScale} × the cost model's time`,
      layout,
      slabs: Math.floor(memoryBytes / layout.slabBytes),
      stateSlots: hasStates ? slots : 0,
      slots,
      maxRowsPerStep,
      maxTokens: options.maxTokens ?? spec.maxPositions,
    }
    this.costs = options.costModel(layout)
    const ends = new Set(spec.eosTokenIds)
    const all = options.alphabet ?? Array.from({ length: spec.vocabSize }, (_, token) => token)
    this.alphabet = all.filter((token) => !ends.has(token))
    if (this.alphabet.length === 0) throw new RangeError("alphabet must hold a token that does not end an output")
    this.runner = new SimulatedRunner({
      layout,
      schedule,
      keep: randomKeep(options.seed, options.keep),
      token: (key, index) => this.sample(this.contents.get(key)!, index),
    })
  }

  attempt(operation: string, change: () => void): Effect.Effect<void, ExecutorError> {
    return Effect.try({
      try: change,
      catch: (cause) =>
        new ExecutorError({
          reason: "InvalidArgument",
          operation,
          detail: cause instanceof Error ? cause.message : String(cause),
        }),
    })
  }

  openSlot(content: SlotContent): void {
    const { slot, tokens, promptLength, pQ32, bitmaps } = content
    const key = this.nextKey++
    const outputs = tokens.length - promptLength
    this.runner.openSlot({ slot, key, promptLength, outputs, drops: pQ32 !== null, bitmaps })
    this.keys.set(slot, key)
    this.contents.set(key, content)
  }

  closeSlot(slot: number): void {
    this.runner.closeSlot(slot)
    this.contents.delete(this.keys.get(slot)!)
    this.keys.delete(slot)
  }

  step(plan: StepPlan, nowMicros: number) {
    const { failureRate, failures, seed, timeScale } = this.options
    let failure: ExecutorError | null = null
    if (hash(seed, this.steps++) < failureRate * 0x1_0000_0000) {
      const reason = failures[this.failures++ % failures.length]!
      failure = new ExecutorError({ reason, operation: `step ${plan.stepId}`, detail: "a simulated failure" })
    }
    const result = failure === null ? this.run(plan) : empty
    this.freeMicros = Math.max(nowMicros, this.freeMicros) + Math.round(result.deviceMicros * timeScale)
    // Timers count in milliseconds: what is shorter is owed, and waited for with the steps that follow.
    return { failure, result, waitMillis: Math.floor((this.freeMicros - nowMicros) / 1000) }
  }

  private run(plan: StepPlan): StepResult {
    const result = this.runner.step(plan)
    result.deviceMicros = this.costs.stepMicros(this.runner.load)
    const { data, length } = result.tokens
    for (let i = 0; i < length; i += 3) this.addLogprobs(result, data[i]!, data[i + 1]!)
    return result
  }

  private sample(content: SlotContent, index: number): { readonly token: number; readonly stop: boolean } {
    const token = this.draw(content, index)
    const stop = content.sampling.stopTokenIds.includes(token) && index >= content.sampling.minTokens
    return { token, stop }
  }

  private draw({ tokens, promptLength, sampling }: SlotContent, index: number): number {
    const { allowedTokenIds, seed } = sampling
    if (this.options.output === "echo" && allowedTokenIds === null) return tokens[index % promptLength]!
    const among = allowedTokenIds ?? this.alphabet
    const last = tokens[promptLength - 1]!
    return among[hash(this.options.seed, Number(BigInt.asIntN(32, seed)), promptLength, last, index) % among.length]!
  }

  /** As if each token of the alphabet had been equally likely: the one sampled, then those that follow it. */
  private addLogprobs(result: StepResult, slot: number, token: number): void {
    const { sampling } = this.contents.get(this.keys.get(slot)!)!
    if (sampling.logprobs < 0) return
    const among = sampling.allowedTokenIds ?? this.alphabet
    const others = among.filter((other) => other !== token).slice(0, sampling.logprobs)
    float[0] = -Math.log(among.length)
    result.logprobs.push2(slot, 1 + others.length)
    result.logprobs.push2(token, bits[0]!)
    for (const other of others) result.logprobs.push2(other, bits[0]!)
  }
}

const empty = new StepResult()
const float = new Float32Array(1)
const bits = new Int32Array(float.buffer)

/** A 32-bit hash of integers. */
const hash = (...words: ReadonlyArray<number>): number => {
  let state = 0x9e3779b9
  for (const word of words) {
    state = Math.imul(state ^ word, 0x85ebca6b)
    state = Math.imul(state ^ (state >>> 13), 0xc2b2ae35)
    state ^= state >>> 16
  }
  return state >>> 0
}
