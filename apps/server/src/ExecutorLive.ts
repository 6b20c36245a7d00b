import { layerCpu } from "@uniprefill/executor-native/NativeExecutor"
import { Effect, Layer } from "effect"
import type { ExecutorOf } from "./EngineLive.ts"
import { UsageError } from "./UsageError.ts"

/** The executor that --executor names. */
export const executorLive: ExecutorOf = ({ directory, spec, schedule }, settings) => {
  const { executor } = settings
  if (executor === "cuda" || executor === "sim") {
    const message = `--executor ${executor} is not part of this version; use cpu or auto`
    return Layer.unwrap(Effect.fail(new UsageError({ message })))
  }
  return layerCpu({
    directory,
    spec,
    schedule,
    memoryBytes: settings["kv-memory"],
    pageSize: settings["page-size"],
    slots: settings["max-num-seqs"],
    maxTokens: settings["max-model-len"],
    threads: settings.threads,
  })
}
