import { mkdtempSync, rmSync } from "node:fs"
import { tmpdir } from "node:os"
import { join } from "node:path"
import { NodeServices } from "@effect/platform-node"
import { layerCpu, layerCuda } from "@uniprefill/executor-native/NativeExecutor"
import { Executor } from "@uniprefill/executor/contract/Executor"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { loadModelDirectory, type ModelDirectory } from "@uniprefill/model/ModelDirectory"
import type { DriverConfig } from "@uniprefill/scheduler/Driver"
import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Effect, Exit, Layer, Scope } from "effect"
import { tinyConfigs, widened } from "../golden/tinyConfigs.ts"
import { writeModelFiles } from "../golden/modelFiles.ts"
import { tinyTensors } from "../golden/tinyModels.ts"
import { type LoggedEvent, logged } from "./StepLog.ts"
import { offsetSteps } from "./OffsetSteps.ts"
import { type LoopOutcome, type LoopRequest, serve } from "./LoopServer.ts"
import { writeRandomModel } from "./RandomModel.ts"

export type Device = "cpu" | "cuda"

/** A small random model on an executor that stays open, for one loop after another. */
export interface Machine {
  readonly vocab: number
  readonly schedule: DropSchedule
  /** Whether prefixes are gone on from at snapshots of recurrent states alone. */
  readonly hasStates: boolean
  readonly hasWindows: boolean
  /**
   * Serves requests to their end. With `bitmaps` these are the selections of every prompt that drops, instead of what its scores would
   * choose; fewer than there are drop layers: the first ones.
   */
  readonly run: (
    requests: ReadonlyArray<LoopRequest>,
    options?: Partial<DriverConfig> & {
      readonly altered?: (plan: StepPlan) => void
      readonly bitmaps?: ReadonlyArray<Uint32Array>
      /** Takes everything that the executor is given and answers. */
      readonly log?: Array<LoggedEvent>
    },
  ) => Promise<LoopOutcome>
  /** The executor itself, empty, its steps counted from 1. */
  readonly use: <A>(by: (executor: Executor["Service"]) => Promise<A>) => Promise<A>
  readonly close: () => Promise<void>
}

/** Models of the suite: full attention alone, sliding windows, recurrent states, experts. */
export const machineKinds = ["llama", "gemma3-window", "qwen3.5-tied", "qwen3.5-moe"] as const
export type MachineKind = (typeof machineKinds)[number]

/** Writes a model that every device has kernels for. */
const writeModel = (directory: string, kind: MachineKind, ranks: number): void => {
  if (kind === "llama") {
    const sizes = { layers: 4, hidden: 128, intermediate: 192, heads: 4, kvHeads: 2, headDim: 64, vocab: 96 }
    return writeRandomModel(directory, { ...sizes, tied: true, seed: 7 })
  }
  const wide = widened(tinyConfigs[kind]!, ranks)
  writeModelFiles(directory, { ...wide.config, max_position_embeddings: 4096 }, tinyTensors(kind, wide))
}

/** Drops at every full-attention layer but the last layer. */
const scheduleOf = ({ spec }: ModelDirectory): DropSchedule => ({
  dropLayers: spec.layers.flatMap(({ mixer }, layer) =>
    mixer.kind === "full" && layer < spec.layers.length - 1 ? [{ layer, p: 0.5 }] : [],
  ),
  rule: "exclusive",
  block: 64,
  sink: 128,
  lastQ: 128,
  windowBy: "kept",
  minPromptTokens: 1,
})

export const openMachine = async (device: Device, kind: MachineKind, tensorParallel = 1): Promise<Machine> => {
  const directory = mkdtempSync(join(tmpdir(), "uniprefill-model-"))
  writeModel(directory, kind, tensorParallel)
  const model = await Effect.runPromise(loadModelDirectory(directory).pipe(Effect.provide(NodeServices.layer)))
  const machine = await openModel(device, model, scheduleOf(model), { maxTokens: 4096, tensorParallel })
  const close = async () => {
    await machine.close()
    rmSync(directory, { recursive: true })
  }
  return { ...machine, close }
}

/** The same of a model that is there. */
export const openModel = async (
  device: Device,
  model: ModelDirectory,
  schedule: DropSchedule,
  {
    maxTokens,
    slots = 8,
    memoryBytes = 1 << 28,
    tensorParallel = 1,
  }: { maxTokens: number; slots?: number; memoryBytes?: number; tensorParallel?: number },
): Promise<Machine> => {
  const sizes = { pageSize: 128, slots, maxRowsPerStep: 4096, maxTokens, memoryBytes }
  const options = { model, schedule, ...sizes, tensorParallel }
  const scope = await Effect.runPromise(Scope.make())
  const layer = device === "cuda" ? layerCuda(options) : layerCpu({ ...options, threads: 2 })
  const context = await Effect.runPromise(Layer.buildWithScope(layer, scope))
  const executor = await Effect.runPromise(Effect.provideContext(Executor, context))
  let last = { steps: 0, contents: 0 }
  const use: Machine["use"] = async (by) => {
    const shifted = offsetSteps(executor, last)
    const result = await by(shifted)
    last = shifted.last()
    await reset(executor, last.steps + 1)
    return result
  }
  const kinds = new Set(model.spec.layers.map(({ mixer }) => mixer.kind))
  return {
    vocab: model.spec.vocabSize,
    schedule,
    hasStates: kinds.has("delta"),
    hasWindows: kinds.has("sliding"),
    use,
    run: (requests, { altered, bitmaps, log, ...config } = {}) =>
      use((shifted) => {
        const forced: Executor["Service"] = {
          ...shifted,
          putContent: (id, content) =>
            shifted.putContent(id, bitmaps === undefined || content.pQ32 === null ? content : { ...content, bitmaps }),
        }
        return serve(log === undefined ? forced : logged(forced, log), schedule, requests, config, altered)
      }),
    close: () => Effect.runPromise(Scope.close(scope, Exit.void)),
  }
}

/** An executor whose step fails has forgotten everything but contents, what the prefix cache held of it too. */
const reset = async (executor: Executor["Service"], step: number): Promise<void> => {
  const plan = new StepPlan()
  plan.clear(step)
  plan.closes.push(-1)
  await Effect.runPromise(executor.enqueue(plan))
  await Effect.runPromise(Effect.flip(executor.nextResult))
}
