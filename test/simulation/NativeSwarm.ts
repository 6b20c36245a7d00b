import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { type DropSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import type { DriverConfig } from "@uniprefill/scheduler/Driver"
import { policyByName } from "@uniprefill/scheduler/policies/PolicyByName"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { type LoopAnswer, type LoopRequest, separate, serve, worstCase } from "../conformance/LoopServer.ts"
import { withCpuExecutor } from "../conformance/CpuExecutor.ts"
import { offsetSteps } from "../conformance/OffsetSteps.ts"
import { promptOf } from "../conformance/Prompts.ts"
import { sameUpToAbort } from "../conformance/SameAnswer.ts"
import { writeModelFiles } from "../golden/modelFiles.ts"
import { type TinyConfig, tinyConfigs } from "../golden/tinyConfigs.ts"
import { tinyTensors } from "../golden/tinyModels.ts"
import { PlanCounts } from "./PlanCounts.ts"
import { adversarial } from "./Adversarial.ts"
import { dropsAt } from "./Swarm.ts"
import type { Scenario } from "./SwarmScenario.ts"

type Kind = Scenario["model"]

/** Small random models of the families, with layers of the kinds that the swarm's naive models have. */
export class NativeModels {
  readonly #directory = mkdtempSync(join(tmpdir(), "uniprefill-swarm-"))

  constructor() {
    for (const [kind, { config }] of Object.entries(models)) {
      const whole = { ...config, max_position_embeddings: 4096 }
      writeModelFiles(this.directoryOf(kind as Kind), whole, tinyTensors(`swarm-${kind}`, { config: whole }))
    }
  }

  directoryOf(kind: Kind): string {
    return join(this.#directory, kind)
  }

  [Symbol.dispose](): void {
    rmSync(this.#directory, { recursive: true })
  }
}

const configOf = (name: string, over: Readonly<Record<string, unknown>>): TinyConfig["config"] => {
  const { sliding_window_pattern: _, ...config } = tinyConfigs[name]!.config
  return { ...config, ...over, num_hidden_layers: (over["layer_types"] as ReadonlyArray<string>).length }
}
const [full, sliding, linear] = ["full_attention", "sliding_attention", "linear_attention"]

const models: { readonly [K in Kind]: { readonly config: TinyConfig["config"]; readonly schedule: DropSchedule } } = {
  full: { config: { ...tinyConfigs["llama-gqa"]!.config, num_hidden_layers: 4 }, schedule: dropsAt(0, 2) },
  sliding: {
    config: configOf("gemma3-window", { layer_types: [sliding, full, sliding, full, sliding], sliding_window: 100 }),
    schedule: dropsAt(1, 3),
  },
  recurrent: {
    config: configOf("qwen3.5-tied", { layer_types: [linear, full, linear, linear, full] }),
    schedule: dropsAt(1),
  },
  // No family has windows and recurrences: this one has experts.
  hybrid: {
    config: configOf("qwen3-next", { layer_types: [full, linear, full, linear], mlp_only_layers: [2] }),
    schedule: dropsAt(0, 2),
  },
}

export interface NativeOutcome extends Omit<PlanCounts, "count"> {
  readonly preemptions: number
  readonly prefixHits: number
  readonly aborted: number
  /** Answers that were compared with their own alone. */
  readonly compared: number
}

const vocabulary = 64

/**
 * Serves a scenario on the native runner, and every answer again alone in a step of its own on an idle one with much memory: all must be the
 * same, bit by bit, logits and selections included. Failures of steps, tenants' shares and strings to stop at are the
 * naive swarm's alone. `altered` may plant a fault into plans. Throws where an answer differs or a plan is refused.
 */
export const runNative = async (
  directories: NativeModels,
  scenario: Scenario,
  altered: (plan: StepPlan) => void = () => {},
): Promise<NativeOutcome> => {
  const { slots, pageSize } = scenario
  const schedule = { ...models[scenario.model].schedule, windowBy: pageSize === 64 ? "kept" : "original" } as const
  const directory = directories.directoryOf(scenario.model)
  const options = { pageSize, threads: 2, kernels: "auto", slots, maxTokens: 4096 } as const
  const stateSlots = slots + scenario.snapshots
  const requests: Array<LoopRequest> = []
  const alone: Array<ReadonlyArray<LoopAnswer>> = []
  let largest = 1
  const roomy = { ...options, slabs: 20_000, maxRowsPerStep: 4096, stateSlots: slots }
  await withCpuExecutor(directory, schedule, roomy, async (runner) => {
    let last = { steps: 0, contents: 0 }
    const answersTo = async (request: LoopRequest) => {
      const answers: Array<LoopAnswer> = []
      for (const single of separate(request)) {
        const shifted = offsetSteps(runner, last)
        const outcome = await serve(shifted, schedule, [single])
        last = shifted.last()
        answers.push(outcome.answers[0]!)
        largest = Math.max(largest, worstCase(outcome.driver, request))
      }
      return answers
    }
    for (const [index, of] of scenario.requests.entries()) {
      const before =
        of.follows < 0 ? [] : [...Array.from(requests[of.follows]!.prompt), ...alone[of.follows]![0]!.tokens]
      const request = requestOf(scenario, index, before)
      const answers = await answersTo(request)
      const stop = of.stopAt < 0 ? undefined : answers[0]!.tokens[of.stopAt % answers[0]!.tokens.length]
      const stopping = { ...request, sampling: { ...request.sampling, stopTokenIds: [stop!] } }
      requests.push(stop === undefined ? request : stopping)
      alone.push(stop === undefined ? answers : await answersTo(stopping))
    }
  })

  const tight = {
    ...options,
    slabs: Math.ceil(largest * scenario.memory),
    maxRowsPerStep: Math.max(scenario.maxRowsPerStep, slots + 64),
    stateSlots,
  }
  const counts = new PlanCounts()
  const config: Partial<DriverConfig> = {
    resumeEvery: scenario.resumePages * pageSize,
    policy: scenario.policy === "adversarial" ? adversarial : policyByName(scenario.policy)!,
    stepBudgetMicros: scenario.budget,
    idleStepBudgetMicros: scenario.budget * 2,
    maxPrefillWaitMicros: 5,
    protectAfter: scenario.protectAfter,
    headroomTokens: scenario.headroom,
    protectAfterMicros: 5000,
    maxStepsInFlight: scenario.stepsInFlight,
  }
  const { answers, driver } = await withCpuExecutor(directory, schedule, tight, (runner) =>
    serve(runner, schedule, requests, config, (plan) => {
      counts.count(plan)
      altered(plan)
    }),
  )
  let [aborted, compared] = [0, 0]
  for (const [i, first] of answers.entries()) {
    for (const [n, answer] of [first, ...first.others].entries()) {
      sameUpToAbort(answer, alone[i]![n]!)
      if (answer.reason !== "abort") compared++
      else if (requests[i]!.abortAt === undefined) throw new Error(`answer ${n} to request ${i} was aborted by nobody`)
      else aborted++
    }
  }
  const { preemptions, memory } = driver.scheduler
  const { forks, snapshots, restores, windowsFreed } = counts
  return { forks, snapshots, restores, windowsFreed, preemptions, prefixHits: memory.prefixHits, aborted, compared }
}

/** `before`: prompt and answer of the request that it follows. */
const requestOf = (scenario: Scenario, index: number, before: ReadonlyArray<number>): LoopRequest => {
  const of = scenario.requests[index]!
  const { dropLayers } = models[scenario.model].schedule
  const prompt = promptOf(of.promptLength, vocabulary, 100 + index)
  prompt.set(promptOf(Math.min(of.shared, of.promptLength), vocabulary, 1 + of.family))
  prompt.set(before.slice(0, of.promptLength))
  return {
    prompt,
    maxTokens: of.maxTokens,
    pQ32: of.drops ? dropLayers.map(({ p }) => pToQ32(p)) : null,
    sampling: { temperature: 1, seed: BigInt(index * 100) },
    cached: of.cached,
    at: of.at,
    answers: Math.min(of.answers, scenario.slots),
    abortAt: of.abortAfter < 0 ? undefined : of.at + of.abortAfter,
    abortAnswer: of.abortAfter < 0 ? 0 : of.abortAfter % Math.min(of.answers, scenario.slots),
  }
}
