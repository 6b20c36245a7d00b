import { costModelOf } from "@uniprefill/cost-model/CostModelOf"
import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { layerCpu, layerCuda } from "@uniprefill/executor-native/NativeExecutor"
import { layerSim, simulatedDefaults } from "@uniprefill/executor/simulated/SimulatedExecutor"
import { Effect, Layer } from "effect"
import { calibrationOf } from "./CostModels.ts"
import type { ExecutorOf } from "./EngineLive.ts"

/** The executor that --executor names. */
export const executorLive: ExecutorOf = (model, settings) => {
  const { spec, schedule, scheduleFingerprint } = model
  const { executor, threads } = settings
  const common = {
    spec,
    schedule,
    memoryBytes: settings["kv-memory"],
    pageSize: settings["page-size"],
    slots: settings["max-num-seqs"],
    maxTokens: settings["max-model-len"],
  }
  switch (executor) {
    case "cuda": {
      const { memoryBytes: _, spec: _spec, ...rest } = common
      return layerCuda({ ...rest, model, scheduleFingerprint })
    }
    case "sim":
      return Layer.unwrap(
        Effect.map(calibrationOf(settings), (calibration) =>
          layerSim({
            ...common,
            costModel: (layout) => {
              const { maxRowsPerStep } = simulatedDefaults
              return costModelOf({
                calibration,
                shape: inSixteenBits(spec),
                layout,
                lastQ: schedule.lastQ,
                maxRowsPerStep,
              })
            },
            timeScale: settings["time-scale"],
            output: settings["sim-output"],
            failureRate: settings["sim-failure-rate"],
            seed: settings["sim-seed"],
          }),
        ),
      )
    default:
      return layerCpu({ ...common, model, scheduleFingerprint, threads })
  }
}
