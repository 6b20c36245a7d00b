import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { Quantization } from "@uniprefill/model/EightBitMatrices"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { parameterCount } from "@uniprefill/model/Parameters"
import { rankWeightBytes } from "@uniprefill/placement/RankMemory"
import type { CostModel } from "@uniprefill/scheduler/CostModel"
import { ItemField, sectionWidths, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { SelectionFlag, type StepResult } from "@uniprefill/scheduler/StepResult"
import { Clock, Effect, Latch, Layer } from "effect"
import { contentFault } from "../contract/ContentFault.ts"
import {
  Executor,
  ExecutorError,
  type ExecutorInfo,
  type ExecutorReason,
  type RequestContent,
} from "../contract/Executor.ts"
import { executorLayout } from "../contract/ExecutorLayout.ts"
import { applyPlan, Books, type PlanLimits } from "../contract/PlanBooks.ts"
import { followStep } from "../contract/StepBooks.ts"
import { randomKeep } from "./KeepModel.ts"
import { CountedResult, SimulatedDevice } from "./SimulatedDevice.ts"

export interface SimulatedExecutorOptions {
  readonly spec: ModelSpec
  readonly schedule: DropSchedule
  /** Ranks that share the model; 1 by default. */
  readonly tensorParallel?: number | undefined
  /** Of the weights whose bytes it tells; `none` by default. How long steps take is the cost model's matter. */
  readonly quantization?: Quantization | undefined
  /** How long a step takes, from the work that it does; made once the layout of a rank is known. */
  readonly costModel: (layout: KvLayout) => CostModel
  /** Seconds of the clock per second of the cost model: 1 is real time, 0.1 ten times as fast, 0 no waiting at all. */
  readonly timeScale: number
  /** Memory for K, V and carry rows, of all ranks. */
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
  tensorParallel: 1,
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
      const machine = yield* Effect.try({
        try: () => new SimulatedMachine(options),
        catch: (cause) =>
          cause instanceof ExecutorError
            ? cause
            : new ExecutorError({
                reason: "InvalidArgument",
                operation: "start simulated executor",
                detail: cause instanceof Error ? cause.message : String(cause),
              }),
      })
      const nowMicros = () => Number(clock.monotonicTimeNanosUnsafe() / 1000n)
      return Executor.of({
        info: machine.info,
        putContent: (id, content) =>
          Effect.suspend(() => {
            const fault = machine.putContent(id, content)
            return fault === null ? Effect.void : Effect.fail(fault)
          }),
        forgetContent: (id) => Effect.sync(() => machine.forgetContent(id)),
        enqueue: (plan) => Effect.sync(() => machine.enqueue(plan, nowMicros())),
        nextResult: Effect.flatMap(machine.any.await, () =>
          Effect.suspend(() => {
            const waitMillis = machine.millisToEnd(nowMicros())
            const end = Effect.suspend(() => {
              const outcome = machine.take()
              return outcome instanceof ExecutorError ? Effect.fail(outcome) : Effect.succeed(outcome)
            })
            return waitMillis > 0 ? Effect.delay(end, waitMillis) : Effect.andThen(Effect.yieldNow, end)
          }),
        ),
        lost: Effect.never,
      })
    }),
  )

/** A step that was taken, and when the device is done with it. */
interface StepInFlight {
  readonly outcome: CountedResult | ExecutorError
  readonly endMicros: number
}

class SimulatedMachine {
  readonly info: ExecutorInfo
  /** Open while a step waits to be answered. */
  readonly any = Latch.makeUnsafe(false)
  private readonly options: SimulatedExecutorOptions & typeof simulatedDefaults
  private readonly limits: PlanLimits
  private readonly books: Books
  private readonly device: SimulatedDevice
  private readonly costs: CostModel
  private readonly alphabet: ReadonlyArray<number>
  /** Contents by the key that the device knows them by, and the keys by slot. */
  private readonly contents = new Map<number, RequestContent>()
  private readonly keys = new Map<number, number>()
  private readonly inFlight: Array<StepInFlight> = []
  private answered: CountedResult | null = null
  private steps = 0
  private failures = 0
  /** When the device is done with what it was given. */
  private freeMicros = 0

  constructor(given: SimulatedExecutorOptions) {
    const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
    const options = { ...simulatedDefaults, ...defined } as SimulatedExecutorOptions & typeof simulatedDefaults
    const { spec, schedule, memoryBytes, pageSize, slots, maxRowsPerStep, timeScale, failureRate } = options
    const { tensorParallel } = options
    for (const [field, value] of Object.entries({ timeScale, failureRate, memoryBytes })) {
      if (!Number.isFinite(value) || value < 0) throw new RangeError(`${field} must be a number ≥ 0, got ${value}`)
    }
    this.options = options
    const layout = executorLayout(spec, schedule, tensorParallel, {
      pageSize,
      kvElementBytes: 2,
      carryElementBytes: 4,
    })
    const hasStates = layout.stateSlotBytes > 0
    const maxTokens = options.maxTokens ?? spec.maxPositions
    this.info = {
      device: timeScale === 0 ? "simulated, instant" : `simulated, ${timeScale} × the cost model's time`,
      layout,
      slabs: Math.floor(memoryBytes / tensorParallel / layout.slabBytes),
      stateSlots: hasStates ? slots : 0,
      slots,
      maxRowsPerStep,
      maxTokens,
      maxStepsInFlight: 2,
      tensorParallel,
      ranks: Array.from({ length: tensorParallel }, () => ({ device: "simulated", weightBytes: weightsOf(options) })),
    }
    this.limits = { layout, schedule, slots, vocab: spec.vocabSize, maxRowsPerStep, maxTokens }
    this.books = new Books(this.info.slabs, this.info.stateSlots, layout.segments.length)
    this.costs = options.costModel(layout)
    const alphabet = options.alphabet ?? Array.from({ length: spec.vocabSize }, (_, token) => token)
    this.alphabet = alphabet.filter((token) => !spec.eosTokenIds.includes(token))
    this.device = new SimulatedDevice(layout, schedule, slots, randomKeep(options.seed, options.keep), (key, index) =>
      this.sample(this.contents.get(key)!, index),
    )
  }

  putContent(id: number, content: RequestContent): ExecutorError | null {
    const { spec, schedule } = this.options
    const fault = this.books.contents.has(id)
      ? "the id is taken"
      : contentFault(content, this.info, spec.vocabSize, schedule)
    if (fault !== null) {
      return new ExecutorError({ reason: "InvalidArgument", operation: `put content ${id}`, detail: fault })
    }
    const { tokens, promptLength, pQ32, bitmaps } = content
    this.books.contents.set(id, content)
    this.contents.set(id, content)
    const outputs = tokens.length - promptLength
    this.device.putContent(id, { key: id, promptLength, outputs, drops: pQ32 !== null, bitmaps, stopAt: -1 })
    return null
  }

  forgetContent(id: number): void {
    if (!this.books.contents.delete(id)) return
    this.contents.delete(id)
    this.device.forgetContent(id)
  }

  enqueue(plan: StepPlan, nowMicros: number): void {
    const { inFlight, info } = this
    if (inFlight.length >= info.maxStepsInFlight) {
      throw new RangeError(`${info.maxStepsInFlight} steps are in flight already`)
    }
    // A step that failed has taken those behind it with it.
    if (inFlight.at(-1)?.outcome instanceof ExecutorError) return
    const outcome = this.run(plan)
    const micros = outcome instanceof ExecutorError ? 0 : outcome.deviceMicros
    this.freeMicros = Math.max(nowMicros, this.freeMicros) + Math.round(micros * this.options.timeScale)
    inFlight.push({ outcome, endMicros: this.freeMicros })
    this.any.openUnsafe()
  }

  /** Timers count in milliseconds: what is shorter is owed, and waited for with the steps that follow. */
  millisToEnd(nowMicros: number): number {
    return Math.floor((this.inFlight[0]!.endMicros - nowMicros) / 1000)
  }

  /** The answer to the oldest step. */
  take(): CountedResult | ExecutorError {
    const { outcome } = this.inFlight.shift()!
    if (this.inFlight.length === 0) this.any.closeUnsafe()
    if (this.answered !== null) this.device.release(this.answered)
    this.answered = outcome instanceof ExecutorError ? null : outcome
    return outcome
  }

  private run(plan: StepPlan): CountedResult | ExecutorError {
    const { failureRate, failures, seed } = this.options
    if (hash(seed, this.steps++) < failureRate * 0x1_0000_0000) {
      const reason = failures[this.failures++ % failures.length]!
      this.books.reset()
      return this.fail(new ExecutorError({ reason, operation: `step ${plan.stepId}`, detail: "a simulated failure" }))
    }
    const { books, limits, device } = this
    let result: CountedResult
    try {
      const work = applyPlan(books, plan, limits)
      this.renameSlots(plan)
      result = device.prepare(plan)
      followStep(books, work, result, limits.layout, limits.schedule)
    } catch (cause) {
      if (cause instanceof ExecutorError) return this.fail(cause)
      throw cause
    }
    result.deviceMicros = this.costs.stepMicros(device.load)
    if (result.selections.length > 0) this.addSelectionTimes(result)
    const { data, length } = result.tokens
    for (let i = 0; i < length; i += 3) this.addLogprobs(result, data[i]!, data[i + 1]!)
    for (let i = 0; i < plan.items.length; i += sectionWidths.items) this.addPromptLogprobs(result, plan.items.data, i)
    return result
  }

  private fail(failure: ExecutorError): ExecutorError {
    this.device.reset()
    for (const key of this.keys.values()) this.contents.delete(key)
    this.keys.clear()
    return failure
  }

  private renameSlots({ closes, opens }: StepPlan): void {
    for (let i = 0; i < closes.length; i++) {
      this.contents.delete(this.keys.get(closes.data[i]!)!)
      this.keys.delete(closes.data[i]!)
    }
    for (let i = 0; i < opens.length; i += 2) this.keys.set(opens.data[i]!, opens.data[i + 1]!)
  }

  private sample(content: RequestContent, index: number): { readonly token: number; readonly stop: boolean } {
    const token = this.draw(content, index)
    const stop = content.sampling.stopTokenIds.includes(token) && index >= content.sampling.minTokens
    return { token, stop }
  }

  private draw({ tokens, promptLength, sampling }: RequestContent, index: number): number {
    const { allowedTokenIds, seed } = sampling
    if (this.options.output === "echo" && allowedTokenIds === null) return tokens[index % promptLength]!
    const among = allowedTokenIds ?? this.alphabet
    const last = tokens[promptLength - 1]!
    return among[hash(this.options.seed, Number(BigInt.asIntN(32, seed)), promptLength, last, index) % among.length]!
  }

  /** What the step would have taken less without them, shared by the selections that were made. */
  private addSelectionTimes(result: StepResult): void {
    const { load } = this.device
    const [scored, selected] = [load.scoredRows.slice(), load.selections.slice()]
    load.scoredRows.fill(0)
    load.selections.fill(0)
    const micros = result.deviceMicros - this.costs.stepMicros(load)
    load.scoredRows.set(scored)
    load.selections.set(selected)
    const { data, length } = result.selections
    const made: Array<readonly [slot: number, segment: number]> = []
    for (let at = 0; at < length; at += 4 + data[at + 3]!) {
      if ((data[at + 2]! & SelectionFlag.replayed) === 0) made.push([data[at]!, data[at + 1]!])
    }
    for (const [slot, segment] of made) {
      result.selectionMicros.push3(slot, segment, Math.max(1, Math.round(micros / made.length)))
    }
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

  /** As if each token had been equally likely. */
  private addPromptLogprobs(result: StepResult, items: Int32Array, at: number): void {
    const slot = items[at + ItemField.slot]!
    const { tokens, promptLength, promptLogprobs } = this.contents.get(this.keys.get(slot)!)!
    if (promptLogprobs < 0) return
    const first = items[at + ItemField.firstRow]!
    const end = Math.min(first + items[at + ItemField.rows]!, promptLength - 1)
    float[0] = -Math.log(this.options.spec.vocabSize)
    for (let row = first; row < end; row++) {
      result.promptLogprobs.push3(slot, row, 1 + promptLogprobs)
      result.promptLogprobs.push2(tokens[row + 1]!, bits[0]!)
      for (let token = 0; token < promptLogprobs; token++) result.promptLogprobs.push2(token, bits[0]!)
    }
  }
}

const float = new Float32Array(1)
const bits = new Int32Array(float.buffer)

/** A rank's weights: 16 bits each, but for those that are rounded to eight. */
const weightsOf = ({
  spec,
  tensorParallel,
  quantization,
}: SimulatedExecutorOptions & typeof simulatedDefaults): number =>
  rankWeightBytes({ spec, weightBytes: 2 * parameterCount(spec), weightElementBytes: 2, quantization }, tensorParallel)

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
