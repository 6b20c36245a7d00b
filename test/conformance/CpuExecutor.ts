import { NodeFileSystem, NodePath } from "@effect/platform-node"
import { layerCpu } from "@uniprefill/executor-native/NativeExecutor"
import type { NativeKernels } from "@uniprefill/executor-native/NativeLibrary"
import { Executor } from "@uniprefill/executor/contract/Executor"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { rankLayout } from "@uniprefill/placement/RankLayout"
import { Effect, References } from "effect"

export interface CpuExecutorOptions {
  readonly pageSize: number
  /** Of every rank. */
  readonly slabs: number
  readonly maxRowsPerStep: number
  readonly threads: number
  readonly kernels: NativeKernels
  readonly tensorParallel?: number
  /** 4 where nothing is said. */
  readonly slots?: number
  readonly stateSlots?: number
  readonly maxTokens?: number
  readonly prefillSparsity?: number
}

/** Runs `use` with a CPU executor on the model in `directory`. */
export const withCpuExecutor = <A>(
  directory: string,
  schedule: DropSchedule,
  { slabs, pageSize, tensorParallel = 1, slots = 4, maxTokens = 2048, ...rest }: CpuExecutorOptions,
  use: (executor: Executor["Service"]) => Promise<A>,
): Promise<A> =>
  Effect.gen(function* () {
    const model = yield* loadModelDirectory(directory)
    const elements = { kvElementBytes: 2, carryElementBytes: 4 }
    const layout = rankLayout(model.spec, tensorParallel, schedule, { pageSize, ...elements })
    const memoryBytes = slabs * layout.slabBytes * tensorParallel
    const options = { model, schedule, memoryBytes, pageSize, slots, maxTokens, tensorParallel, ...rest }
    return yield* Effect.flatMap(Executor, (executor) => Effect.promise(() => use(executor))).pipe(
      Effect.provide(layerCpu(options)),
    )
  }).pipe(
    Effect.scoped,
    Effect.provide([NodeFileSystem.layer, NodePath.layer]),
    Effect.provideService(References.MinimumLogLevel, "Warn"),
    Effect.runPromise,
  )
