import { NodeFileSystem, NodePath } from "@effect/platform-node"
import { layerCpu } from "@uniprefill/executor-native/NativeExecutor"
import { Executor } from "@uniprefill/executor/contract/Executor"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { loadModelDirectory } from "@uniprefill/model/ModelDirectory"
import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Effect, Layer } from "effect"

export interface RunnerOptions {
  readonly pageSize: number
  readonly slabs: number
  readonly maxRowsPerStep: number
  readonly threads: number
  readonly kernels: "auto" | "portable"
  /** 4 where nothing is said. */
  readonly slots?: number
  readonly stateSlots?: number
  /** 2,048 where nothing is said. */
  readonly maxTokens?: number
}

/** Runs `use` with a native executor on the model in `directory`. */
export const withRunner = <A>(
  directory: string,
  schedule: DropSchedule,
  options: RunnerOptions,
  use: (executor: Executor["Service"]) => Promise<A>,
): Promise<A> =>
  Effect.gen(function* () {
    const model = yield* loadModelDirectory(directory)
    const { pageSize, slabs, ...rest } = options
    const layout = makeKvLayout(model.spec, schedule, { pageSize, kvElementBytes: 2, carryElementBytes: 4 })
    const memoryBytes = slabs * layout.slabBytes
    const service = yield* Effect.map(
      Layer.build(layerCpu({ model, schedule, memoryBytes, pageSize, slots: 4, maxTokens: 2048, ...rest })),
      (context) => Executor.of(context.mapUnsafe.get(Executor.key) as never),
    )
    return yield* Effect.promise(() => use(service))
  }).pipe(Effect.scoped, Effect.provide([NodeFileSystem.layer, NodePath.layer]), Effect.runPromise)

/** The executor seen by another loop: step numbers and content ids go on from where the loop before left them. */
export const offsetSteps = (
  executor: Executor["Service"],
  offset: { readonly steps: number; readonly contents: number },
): Executor["Service"] & { readonly last: () => { readonly steps: number; readonly contents: number } } => {
  let { steps, contents } = offset
  const shifted = (id: number) => {
    contents = Math.max(contents, id + offset.contents)
    return id + offset.contents
  }
  return {
    ...executor,
    last: () => ({ steps, contents }),
    putContent: (id, content) => executor.putContent(shifted(id), content),
    forgetContent: (id) => executor.forgetContent(shifted(id)),
    enqueue: (plan) => {
      const copy = new StepPlan()
      copy.assign(plan)
      copy.stepId = steps = plan.stepId + offset.steps
      for (let i = 1; i < copy.opens.length; i += 2) copy.opens.data[i] = shifted(copy.opens.data[i]!)
      return executor.enqueue(copy)
    },
    nextResult: Effect.map(executor.nextResult, (result) => {
      result.stepId -= offset.steps
      return result
    }),
  }
}
