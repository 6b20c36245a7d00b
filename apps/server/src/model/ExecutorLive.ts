import type { Executor, ExecutorError } from "@uniprefill/executor/contract/Executor"
import type { KeepProfile } from "@uniprefill/executor-native/KeepProfile"
import { layerCpu, layerCuda } from "@uniprefill/executor-native/NativeExecutor"
import { layerSim, simulatedDefaults } from "@uniprefill/executor/simulated/SimulatedExecutor"
import { Effect, Layer } from "effect"
import { modelShape, predictionFor } from "./CostModels.ts"
import type { ExecutorOf } from "./EngineLive.ts"

/** The executor that --executor names. */
export const executorLive: ExecutorOf = (model, settings) => executorWith(null)(model, settings)

/** The same with what selections choose replaced, for models with random weights. */
export const executorWith =
  (keepProfile: KeepProfile | null): ExecutorOf =>
  (model, settings) => {
    const { spec, schedule, scheduleFingerprint } = model
    const { executor, threads } = settings
    const common = {
      schedule,
      pageSize: settings["page-size"],
      slots: settings["max-num-seqs"],
      maxTokens: settings["max-model-len"],
      tensorParallel: settings["tensor-parallel-size"],
    }
    const { quantization, "prefill-sparsity": prefillSparsity } = settings
    const native = { ...common, model, scheduleFingerprint, keepProfile, quantization, prefillSparsity }
    const memoryBytes = settings["kv-memory"]
    const cpu = layerCpu({ ...native, memoryBytes, threads })
    const cuda = layerCuda({ ...native, memoryFraction: settings["gpu-memory-fraction"] })
    switch (executor) {
      case "auto":
        return orElseCpu(cuda, cpu)
      case "cpu":
        return cpu
      case "cuda":
        return cuda
      case "sim":
        return Layer.unwrap(
          Effect.map(predictionFor(settings, "sim"), (predict) =>
            layerSim({
              ...common,
              spec,
              quantization,
              memoryBytes,
              costModel: (layout) => {
                const { maxRowsPerStep } = simulatedDefaults
                return predict({ shape: modelShape(settings, spec), layout, lastQ: schedule.lastQ, maxRowsPerStep })
              },
              timeScale: settings["time-scale"],
              output: settings["sim-output"],
              failureRate: settings["sim-failure-rate"],
              seed: settings["sim-seed"],
            }),
          ),
        )
    }
  }

/** Without a device, or for a model that has no CUDA kernels, the CPU; whatever else goes wrong on a device is told. */
const orElseCpu = (
  cuda: Layer.Layer<Executor, ExecutorError>,
  cpu: Layer.Layer<Executor, ExecutorError>,
): Layer.Layer<Executor, ExecutorError> =>
  Layer.catch(cuda, (error) => {
    switch (error.reason) {
      case "DeviceLost":
        return Layer.unwrap(Effect.as(Effect.logInfo(`no CUDA device is used: ${error.detail}`), cpu))
      case "UnsupportedModel":
        return Layer.unwrap(Effect.as(Effect.logWarning(`the CPU runs this model: ${error.detail}`), cpu))
      default:
        return Layer.unwrap(Effect.fail(error))
    }
  })
