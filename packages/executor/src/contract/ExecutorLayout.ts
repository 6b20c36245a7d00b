import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout, KvLayoutOptions } from "@uniprefill/model/KvLayout"
import type { ModelSpec } from "@uniprefill/model/ModelSpec"
import { rankLayout } from "@uniprefill/placement/RankLayout"
import { modelSplitFault } from "@uniprefill/placement/Shards"
import { ExecutorError } from "./Executor.ts"

/**
 * The layout of each of an executor's ranks. Throws {@link ExecutorError}: `UnsupportedModel` where the ranks cannot have equal
 * shares, `InvalidArgument` for a number of ranks or a page size that is none.
 */
export const executorLayout = (
  spec: ModelSpec,
  schedule: DropSchedule,
  tensorParallel: number,
  options: KvLayoutOptions,
): KvLayout => {
  const failure = (reason: "InvalidArgument" | "UnsupportedModel", operation: string, detail: string) =>
    new ExecutorError({ reason, operation, detail })
  const operation = "divide model among ranks"
  if (!Number.isInteger(tensorParallel) || tensorParallel < 1) {
    throw failure("InvalidArgument", operation, `the number of ranks is ${tensorParallel}`)
  }
  const fault = modelSplitFault(spec, tensorParallel)
  if (fault !== null) throw failure("UnsupportedModel", operation, fault)
  try {
    return rankLayout(spec, tensorParallel, schedule, options)
  } catch (error) {
    throw failure("InvalidArgument", "lay out memory", (error as Error).message)
  }
}
