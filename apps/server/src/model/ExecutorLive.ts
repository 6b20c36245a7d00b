import { RooflineCostModel } from "@uniprefill/cost-model/RooflineCostModel"
import { layerCpu } from "@uniprefill/executor-native/NativeExecutor"
import { layerSim } from "@uniprefill/executor/SimulatedExecutor"
import { segmentWork } from "@uniprefill/model/Work"
import { Effect, Layer } from "effect"
import { costTableOf } from "./CostModels.ts"
import type { ExecutorOf } from "./EngineLive.ts"
import { UsageError } from "../cli/UsageError.ts"

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
        Effect.map(costTableOf(settings), (table) =>
          layerSim({
            ...common,
            costModel: (layout) =>
              new RooflineCostModel(segmentWork(spec, layout, { weight: 2, kv: 2 }), table, schedule.lastQ),
            timeScale: settings["time-scale"],
            output: settings["sim-output"],
            failureRate: settings["sim-failure-rate"],
            seed: settings["sim-seed"],
          }),
        ),
      )
    default:
      return layerCpu({ ...common, directory, scheduleFingerprint, threads })
  }
}
