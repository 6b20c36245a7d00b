import { Executor, type ExecutorError, type RequestContent } from "@uniprefill/executor/contract/Executor"
import { randomKeep } from "@uniprefill/executor/simulated/KeepModel"
import { StepQueue } from "@uniprefill/executor/contract/StepQueue"
import { SimulatedDevice } from "@uniprefill/executor/simulated/SimulatedDevice"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { FailureReason, type StepResult } from "@uniprefill/scheduler/StepResult"
import { Effect, Layer } from "effect"

/** A model of four layers over the vocabulary of needle-10m-deep. */
export const { spec } = readModelConfig("config.json", {
  architectures: ["LlamaForCausalLM"],
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 4,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  vocab_size: 4096,
  max_position_embeddings: 4096,
  rms_norm_eps: 1e-5,
  tie_word_embeddings: true,
  eos_token_id: 1,
})

/** Drops after layers 1 and 2, in prompts of 1,024 tokens and more. */
export const schedule: DropSchedule = {
  dropLayers: [
    { layer: 1, p: 0.9 },
    { layer: 2, p: 0.5 },
  ],
  rule: "exclusive",
  block: 64,
  sink: 128,
  lastQ: 128,
  minPromptTokens: 1024,
  windowBy: "kept",
}

const layout = makeKvLayout(spec, schedule, { pageSize: 64, kvElementBytes: 2, carryElementBytes: 2 })

export interface Script {
  /** Output tokens by prompt; token 2 follows where the list ends. */
  readonly outputs: (prompt: ReadonlyArray<number>) => ReadonlyArray<number>
  /** Virtual time of a step. */
  readonly stepMillis?: number
  /** A step that has begun is waited for, as on a real device. */
  readonly uninterruptible?: boolean
  readonly slabs?: number
  readonly slots?: number
  /** Called before a step with how many were asked for before it; what it returns is the step's failure. */
  readonly failStep?: (call: number) => ExecutorError | undefined
  readonly failPut?: (content: RequestContent) => ExecutorError | undefined
  /** Fails, where there is one, when the executor is gone. */
  readonly lost?: Effect.Effect<never, ExecutorError>
  /** Output tokens, by number, whose logits are not finite. */
  readonly nonFinite?: (prompt: ReadonlyArray<number>, index: number) => boolean
}

/** An executor without a model that says what the script tells it to, and notes what it was asked for. */
export class ScriptedExecutor {
  /** Contents that were put, in order. */
  readonly contents: Array<RequestContent> = []
  readonly device: SimulatedDevice
  readonly layer: Layer.Layer<Executor>
  stepCalls = 0
  /** Contents that no slot was opened for. */
  readonly stored = new Map<number, RequestContent>()
  /** The most steps that were in flight at a time. */
  mostInFlight = 0
  private inFlight = 0
  private readonly bySlot = new Map<number, RequestContent>()

  constructor(script: Script) {
    const { stepMillis = 0, slabs = 512, slots = 16, lost = Effect.never } = script
    this.device = new SimulatedDevice(layout, schedule, slots, randomKeep(1, [0.5, 0.5]), (key, index) => {
      const { tokens, promptLength, sampling } = this.contents[key]!
      const prompt = [...tokens.subarray(0, promptLength)]
      const token = script.outputs(prompt)[index] ?? 2
      return { token, stop: sampling.stopTokenIds.includes(token) }
    })
    const sizes = { layout, slabs, stateSlots: 0, slots, maxRowsPerStep: 512, maxTokens: 4096 }
    const steps = new StepQueue(2)
    this.layer = Layer.succeed(Executor, {
      info: { device: "script", ...sizes, maxStepsInFlight: 2, tensorParallel: 1 },
      putContent: (id, content) =>
        Effect.suspend(() => {
          const failure = script.failPut?.(content)
          if (failure !== undefined) return Effect.fail(failure)
          const { tokens, promptLength, pQ32, bitmaps } = content
          const key = this.contents.push(content) - 1
          const outputs = tokens.length - promptLength
          this.stored.set(id, content)
          this.device.putContent(id, { key, promptLength, outputs, drops: pQ32 !== null, bitmaps, stopAt: -1 })
          return Effect.void
        }),
      forgetContent: (id) =>
        Effect.sync(() => {
          this.stored.delete(id)
          this.device.forgetContent(id)
        }),
      enqueue: (plan) =>
        Effect.sync(() => {
          steps.push(plan)
          this.mostInFlight = Math.max(this.mostInFlight, ++this.inFlight)
        }),
      nextResult: Effect.flatMap(steps.next, (plan) =>
        Effect.suspend(() => {
          const call = this.stepCalls++
          const failure = script.failStep?.(call)
          this.inFlight--
          if (failure === undefined) return Effect.sync(() => this.annotate(script, this.run(plan)))
          this.inFlight = 0
          steps.clear()
          this.device.reset()
          return Effect.fail(failure)
        }).pipe(
          stepMillis === 0 ? (step) => step : Effect.delay(stepMillis),
          script.uninterruptible === true ? Effect.uninterruptible : (step) => step,
        ),
      ),
      lost,
    })
  }

  private run(plan: StepPlan): StepResult {
    const { opens } = plan
    for (let i = 0; i < opens.length; i += 2) {
      this.bySlot.set(opens.data[i]!, this.stored.get(opens.data[i + 1]!)!)
      this.stored.delete(opens.data[i + 1]!)
    }
    return this.device.prepare(plan)
  }

  /** Adds log-probabilities −1, −2, … for the sampled token and those after it, and flags. */
  private annotate(script: Script, result: StepResult): StepResult {
    const { data } = result.tokens
    for (let i = 0; i < result.tokens.length; i += 3) {
      const content = this.bySlot.get(data[i]!)!
      const prompt = [...content.tokens.subarray(0, content.promptLength)]
      const index = result.stepId
      if (script.nonFinite?.(prompt, index) === true) {
        result.failures.push2(data[i]!, FailureReason.nonFinite)
        data.copyWithin(i, i + 3, result.tokens.length)
        result.tokens.length -= 3
        i -= 3
        continue
      }
      const count = content.sampling.logprobs + 1
      if (count === 0) continue
      result.logprobs.push2(data[i]!, count)
      for (let n = 0; n < count; n++) result.logprobs.push2(data[i + 1]! + n, floatBits(-1 - n))
    }
    return result
  }
}

const floatBits = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0]!
