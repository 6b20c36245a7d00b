import { costModelOf } from "@uniprefill/cost-model/CostModelOf"
import { inSixteenBits } from "@uniprefill/cost-model/ModelShape"
import { layerCpu } from "@uniprefill/executor-native/NativeExecutor"
import { layerSim, simulatedDefaults } from "@uniprefill/executor/SimulatedExecutor"
import { Effect, Layer } from "effect"
import { calibrationOf } from "./CostModels.ts"
import type { ExecutorOf } from "./EngineLive.ts"
import { UsageError } from "./UsageError.ts"

/** The executor that --executor names. */
export const executorLive: ExecutorOf = ({ directory, spec, schedule, scheduleFingerprint }, settings) => {
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
      const message = "--executor cuda is not part of this version; use cpu, sim or auto"
      return Layer.unwrap(Effect.fail(new UsageError({ message })))
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
          }),
        ),
      )
    default:
      return layerCpu({ ...common, directory, scheduleFingerprint, threads })
  }
}
