import { RooflineCostModel } from "@uniprefill/cost-model/RooflineCostModel"
import { layerCpu, layerCuda } from "@uniprefill/executor-native/NativeExecutor"
import { layerSim } from "@uniprefill/executor/simulated/SimulatedExecutor"
import { segmentWork } from "@uniprefill/model/Work"
import { Effect, Layer } from "effect"
import { costTableOf } from "./CostModels.ts"
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
        Effect.map(costTableOf(settings), (table) =>
          layerSim({
            ...common,
            costModel: (layout) =>
              new RooflineCostModel(segmentWork(spec, layout, { weight: 2, kv: 2 }), table, schedule.lastQ),
            timeScale: settings["time-scale"],
            output: settings["sim-output"],
            failureRate: settings["sim-failure-rate"],
          }),
        ),
      )
    default:
      return layerCpu({ ...common, model, scheduleFingerprint, threads })
  }
}
