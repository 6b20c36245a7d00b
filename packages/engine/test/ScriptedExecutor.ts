import { Executor, type ExecutorError, type SlotContent } from "@uniprefill/executor/Executor"
import { randomKeep } from "@uniprefill/executor/KeepModel"
import { SimulatedRunner } from "@uniprefill/executor/SimulatedRunner"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { readModelConfig } from "@uniprefill/model/ModelConfig"
import { type StepResult, TokenFlag } from "@uniprefill/scheduler/StepResult"
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
  readonly failOpen?: (content: SlotContent) => ExecutorError | undefined
  /** Output tokens, by number, whose logits are not finite. */
  readonly nonFinite?: (prompt: ReadonlyArray<number>, index: number) => boolean
}

/** An executor without a model that says what the script tells it to, and notes what it was asked for. */
export class ScriptedExecutor {
  readonly opened: Array<SlotContent> = []
  readonly runner: SimulatedRunner
  readonly layer: Layer.Layer<Executor>
  stepCalls = 0
  private readonly bySlot = new Map<number, SlotContent>()

  constructor(script: Script) {
    const { stepMillis = 0, slabs = 512, slots = 16 } = script
    this.runner = new SimulatedRunner({
      layout,
      schedule,
      keep: randomKeep(1, [0.5, 0.5]),
      token: (key, index) => {
        const { tokens, promptLength, sampling } = this.opened[key]!
        const prompt = [...tokens.subarray(0, promptLength)]
        const token = script.outputs(prompt)[index] ?? 2
        return { token, stop: sampling.stopTokenIds.includes(token) }
      },
    })
    const info = { device: "script", layout, slabs, stateSlots: 0, slots, maxRowsPerStep: 512, maxTokens: 4096 }
    this.layer = Layer.succeed(Executor, {
      info,
      openSlot: (content) =>
        Effect.suspend(() => {
          const failure = script.failOpen?.(content)
          if (failure !== undefined) return Effect.fail(failure)
          const { slot, tokens, promptLength, pQ32, bitmaps } = content
          const key = this.opened.push(content) - 1
          this.bySlot.set(slot, content)
          const outputs = tokens.length - promptLength
          return Effect.sync(() =>
            this.runner.openSlot({ slot, key, promptLength, outputs, drops: pQ32 !== null, bitmaps }),
          )
        }),
      closeSlot: (slot) => Effect.sync(() => this.runner.closeSlot(slot)),
      step: (plan) =>
        Effect.suspend(() => {
          const call = this.stepCalls++
          const failure = script.failStep?.(call)
          if (failure !== undefined) return Effect.fail(failure)
          return Effect.sync(() => this.annotate(script, this.runner.step(plan)))
        }).pipe(
          stepMillis === 0 ? (step) => step : Effect.delay(stepMillis),
          script.uninterruptible === true ? Effect.uninterruptible : (step) => step,
        ),
    })
  }

  /** Adds log-probabilities −1, −2, … for the sampled token and those after it, and flags. */
  private annotate(script: Script, result: StepResult): StepResult {
    const { data, length } = result.tokens
    for (let i = 0; i < length; i += 3) {
      const content = this.bySlot.get(data[i]!)!
      const prompt = [...content.tokens.subarray(0, content.promptLength)]
      const index = result.stepId
      if (script.nonFinite?.(prompt, index) === true) data[i + 2]! |= TokenFlag.nonFinite
      const count = content.sampling.logprobs + 1
      if (count === 0) continue
      result.logprobs.push2(data[i]!, count)
      for (let n = 0; n < count; n++) result.logprobs.push2(data[i + 1]! + n, floatBits(-1 - n))
    }
    return result
  }
}

const floatBits = (value: number): number => new Int32Array(Float32Array.of(value).buffer)[0]!
