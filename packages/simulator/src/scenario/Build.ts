import { decodeCalibration } from "@uniprefill/cost-model/Calibration"
import type { DeviceSpec } from "@uniprefill/cost-model/DeviceSpec"
import { denseSchedule, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { decodeScheduleFile } from "@uniprefill/model/ScheduleFile"
import { Effect } from "effect"
import { devices } from "../device/Devices.ts"
import type { SummaryOptions } from "../metrics/Summary.ts"
import { modelPresets, type ModelPreset } from "../model/ModelPresets.ts"
import { decodeShape } from "../model/PublishedConfig.ts"
import type { Setup } from "../Setup.ts"
import type { Workload } from "../workload/Workload.ts"
import { buildChanges } from "./BuildChanges.ts"
import { buildKeep, buildSloKeep } from "./BuildKeep.ts"
import { buildWorkload } from "./BuildWorkload.ts"
import { policyOf, type PolicyModules } from "./Policies.ts"
import type { FullScenario } from "./Scenario.ts"
import { parseJson, ScenarioError } from "./ScenarioFields.ts"

/** Reads a file that a scenario names. Fails with an error that names it. */
export type ReadText = (file: string) => string

/** A scenario ready to run. */
export interface Experiment {
  readonly scenario: FullScenario
  readonly setup: Setup
  readonly workload: Workload
  readonly summary: SummaryOptions
}

/** Fails with ScenarioError, TraceError, SetupError, CalibrationError or ModelError, each naming what is wrong and where. */
export const buildExperiment = (
  scenario: FullScenario,
  read: ReadText,
  policies: PolicyModules = new Map(),
): Experiment => {
  const { engine, host, faults, slo } = scenario
  const model = buildModel(scenario.model, read)
  const schedule = buildSchedule(scenario.schedule, model, read)
  if (engine.maxRowsPerStep < engine.slots + 64) {
    throw new ScenarioError(`engine.maxRowsPerStep ${engine.maxRowsPerStep} is below slots + 64 = ${engine.slots + 64}`)
  }
  if (engine.pageSize % 64 !== 0) throw new ScenarioError(`engine.pageSize ${engine.pageSize} is not a multiple of 64`)
  const { changes, workload } = buildChanges(scenario, schedule, buildWorkload(scenario, read), read, policies)
  const micros = (milliseconds: number) => Math.round(milliseconds * 1000)
  return {
    scenario,
    workload,
    setup: {
      model: model.shape,
      schedule,
      keep: buildKeep(scenario.keep, schedule, workload, read),
      sloKeep: buildSloKeep(scenario, schedule, workload, read),
      device: buildDevice(scenario, read),
      tensorParallel: scenario.tensorParallel,
      replicas: scenario.replicas,
      router: scenario.router as Setup["router"],
      policy: policyOf(scenario, policies),
      seed: scenario.seed,
      engine: {
        pageSize: engine.pageSize,
        slots: engine.slots,
        snapshots: engine.snapshots,
        resumeEvery: engine.resumeEvery,
        maxRowsPerStep: engine.maxRowsPerStep,
        stepBudgetMicros: micros(engine.stepBudgetMs),
        idleStepBudgetMicros: micros(engine.idleStepBudgetMs),
        prefillFloor: engine.prefillFloor,
        sloP: engine.sloP,
        maxPauseMicros: micros(engine.maxPauseMs),
        headroomTokens: engine.headroomTokens,
        tenantShare: engine.tenantShare,
        maxPrefillWaitMicros: micros(engine.maxPrefillWaitMs),
        protectAfter: engine.protectAfter,
        protectAfterMicros: micros(engine.protectAfterMs),
        maxStepsInFlight: engine.stepsInFlight as 1 | 2,
        maxModelLen: engine.maxModelLen,
        maxWaiting: engine.maxWaiting,
        maxWaitingTokens: engine.maxWaitingTokens,
        memoryUtilization: engine.memoryUtilization,
        slabs: engine.slabs,
        efficiency: engine.efficiency,
        prefixCaching: engine.prefixCaching,
      },
      host,
      faults: {
        slowSteps: faults.slowSteps,
        slowFactor: faults.slowFactor,
        failedSteps: faults.failedSteps,
        recoveryMicros: micros(faults.recoveryMs),
        cancelled: faults.cancelled,
        cancelWithinMicros: micros(faults.cancelWithinMs),
      },
      ttftTargetMicros: micros(slo.ttftMs),
      timeoutMicros: micros(scenario.timeoutMs),
      untilMicros: Math.round(scenario.untilSeconds * 1e6),
      changes,
    },
    summary: { slo, warmupRequests: scenario.warmupRequests, gpuHourPrice: scenario.gpuHourPrice },
  }
}

const buildModel = (name: string, read: ReadText): ModelPreset => {
  const preset = modelPresets.get(name)
  if (preset !== undefined) return preset
  if (!name.endsWith(".json")) {
    throw new ScenarioError(
      `model: there is no ${JSON.stringify(name)}; there are ${[...modelPresets.keys()].join(", ")}, and any decoder's config.json`,
    )
  }
  return { name, shape: decodeShape(name, parseJson(name, read(name))), schedule: denseSchedule }
}

const buildSchedule = (name: string, model: ModelPreset, read: ReadText): DropSchedule => {
  if (name === "off") return denseSchedule
  if (name === "preset") return model.schedule
  if (!name.endsWith(".json"))
    throw new ScenarioError(`schedule: ${JSON.stringify(name)} is none of preset, off and a .json file`)
  return Effect.runSync(decodeScheduleFile(name, parseJson(name, read(name)), model.shape.spec)).schedule
}

const buildDevice = (scenario: FullScenario, read: ReadText): DeviceSpec => {
  const device = devices.get(scenario.device)
  if (device === undefined) {
    throw new ScenarioError(
      `device: there is no ${JSON.stringify(scenario.device)}; there are ${[...devices.keys()].join(", ")}`,
    )
  }
  const file = scenario.calibration
  return file === "" ? device : { ...device, calibration: decodeCalibration(parseJson(file, read(file))) }
}
