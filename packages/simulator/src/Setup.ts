import type { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { type Calibration, type LinkLibrary, scaledCalibration } from "@uniprefill/cost-model/Calibration"
import { calibrationOf, type DeviceSpec, linkOf } from "@uniprefill/cost-model/DeviceSpec"
import { weightBytes, type ModelShape } from "@uniprefill/cost-model/ModelShape"
import { costModelOf } from "@uniprefill/cost-model/CostModelOf"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import type { KvLayout } from "@uniprefill/model/KvLayout"
import { fitRank, type RankFitOptions } from "@uniprefill/placement/RankFit"
import { rankMemory } from "@uniprefill/placement/RankMemory"
import { modelSplitFault } from "@uniprefill/placement/Shards"
import type { DriverConfig } from "@uniprefill/scheduler/Driver"
import type { Policy } from "@uniprefill/scheduler/Policy"
import type { Change } from "./Change.ts"
import type { KeepProfile } from "./model/KeepProfile.ts"
import type { RouterKind } from "./Router.ts"

/** Everything that a run depends on but the workload. */
export interface Setup {
  readonly model: ModelShape
  readonly schedule: DropSchedule
  readonly keep: KeepProfile
  /** What selections keep of prompts whose p is lowered so that first tokens come in time; undefined where none is. */
  readonly sloKeep?: KeepProfile | undefined
  readonly device: DeviceSpec
  /** Devices of one replica. */
  readonly tensorParallel: number
  readonly replicas: number
  readonly router: RouterKind
  readonly policy: Policy
  readonly seed: number
  readonly engine: EngineSettings
  readonly host: HostTimes
  readonly faults: FaultRates
  /** When a first token is due where the workload does not say, after the arrival; 0 for never. */
  readonly ttftTargetMicros: number
  /** A request that has not ended this long after its arrival is given up; 0 for never. */
  readonly timeoutMicros: number
  /** The run ends here whatever is unfinished; 0 for when all is done. */
  readonly untilMicros: number
  /** In order of time. */
  readonly changes?: ReadonlyArray<Change> | undefined
}

export interface EngineSettings {
  readonly pageSize: number
  readonly slots: number
  /** Copies of recurrent states, where the model has any, beside those of the slots. */
  readonly snapshots: number
  /** Rows between the places where a prefix can be gone on from, in models with windows or recurrent states. */
  readonly resumeEvery: number
  readonly maxRowsPerStep: number
  readonly stepBudgetMicros: number
  readonly idleStepBudgetMicros: number
  readonly prefillFloor: number
  /** p of prompts that would be late otherwise; 0: none is lowered. */
  readonly sloP: number
  /** 0: nobody takes turns. */
  readonly maxPauseMicros: number
  readonly headroomTokens: number
  readonly tenantShare: number
  readonly maxPrefillWaitMicros: number
  readonly protectAfter: number
  readonly protectAfterMicros: number
  readonly maxStepsInFlight: 1 | 2
  readonly maxModelLen: number
  readonly maxWaiting: number
  readonly maxWaitingTokens: number
  /** Share of the device's memory that weights, K/V and workspace may take. */
  readonly memoryUtilization: number
  /** Slabs of the pool; 0 for as many as the memory holds. */
  readonly slabs: number
  /** Multiplies every rate of the device. */
  readonly efficiency: number
  /** Whether prompts share the pages of equal prefixes. */
  readonly prefixCaching: boolean
}

/** Time that does not pass on the device, in µs. */
export interface HostTimes {
  /** Between a plan and the start of its step, and back: hidden where a second step is in flight. */
  readonly stepMicros: number
  /** Launches of any step, on the device's own time. */
  readonly launchMicros: number
  readonly itemMicros: number
  /** What a layer takes at least, where its launches are not recorded in a graph. */
  readonly layerMicros: number
  /** A selection that the host reads while the step waits. */
  readonly readBackMicros: number
  /** From arrival to submission, and for each prompt token. */
  readonly admissionMicros: number
  readonly tokenizeMicrosPerToken: number
  /** What all-reduces between devices are done with. */
  readonly link: LinkLibrary
}

/** Things that go wrong, drawn from the seed. */
export interface FaultRates {
  /** Share of steps that take `slowFactor` times as long. */
  readonly slowSteps: number
  readonly slowFactor: number
  /** Share of steps that fail: what has a slot ends with an error, and the replica is back after `recoveryMicros`. */
  readonly failedSteps: number
  readonly recoveryMicros: number
  /** Share of requests whose client gives up, at a time drawn up to `cancelWithinMicros` after the arrival. */
  readonly cancelled: number
  readonly cancelWithinMicros: number
}

export class SetupError extends Error {
  constructor(message: string) {
    super(message)
    this.name = "SetupError"
  }
}

/** What a device keeps for itself: its context, workspaces of libraries, fragmentation. */
const reserveBytes = 1024 ** 3

/** What a device of this setup has to hold. */
export const rankFitOptions = ({ model, schedule, device, engine }: Setup): RankFitOptions => ({
  spec: model.spec,
  schedule,
  weightBytes: weightBytes(model),
  weightElementBytes: model.weightBytes,
  pageSize: engine.pageSize,
  kvElementBytes: model.kvBytes,
  carryElementBytes: 2,
  slots: engine.slots,
  snapshots: engine.prefixCaching ? engine.snapshots : 0,
  maxRowsPerStep: engine.maxRowsPerStep,
  maxModelLen: Math.min(engine.maxModelLen, model.spec.maxPositions),
  reserveBytes,
  memoryBytes: device.memoryBytes,
  memoryUtilization: engine.memoryUtilization,
})

/** The configuration of one replica's serving loop. Fails with SetupError, with the numbers, when the model does not fit. */
export const driverConfig = (setup: Setup): DriverConfig & { readonly costModel: DeviceCostModel } => {
  const { model, schedule, device, engine, host, tensorParallel } = setup
  const options = rankFitOptions(setup)
  const { layout, slabs } = slabsOf(setup, options)
  const costModel = costModelOf({
    calibration: withHostTimes(scaledCalibration(calibrationOf(device), engine.efficiency), host),
    shape: model,
    layout,
    lastQ: schedule.lastQ,
    maxRowsPerStep: engine.maxRowsPerStep,
    tensorParallel,
    link: linkOf(device, host.link, tensorParallel),
  })
  return {
    layout,
    schedule,
    slabs,
    slots: engine.slots,
    stateSlots: layout.stateSlotBytes > 0 ? engine.slots + (engine.prefixCaching ? engine.snapshots : 0) : 0,
    resumeEvery: engine.resumeEvery,
    maxRowsPerStep: engine.maxRowsPerStep,
    costModel,
    policy: setup.policy,
    stepBudgetMicros: engine.stepBudgetMicros,
    idleStepBudgetMicros: engine.idleStepBudgetMicros,
    prefillFloor: engine.prefillFloor,
    sloP: engine.sloP === 0 ? undefined : engine.sloP,
    maxPauseMicros: engine.maxPauseMicros,
    headroomTokens: engine.headroomTokens,
    tenantShare: engine.tenantShare,
    maxPrefillWaitMicros: engine.maxPrefillWaitMicros,
    protectAfter: engine.protectAfter,
    protectAfterMicros: engine.protectAfterMicros,
    maxStepsInFlight: engine.maxStepsInFlight,
    maxModelLen: options.maxModelLen,
    maxWaiting: engine.maxWaiting,
    maxWaitingTokens: engine.maxWaitingTokens,
  }
}

/** A calibration's own times hold where it has any: those of the scenario are for devices of which only rates are known. */
const withHostTimes = (calibration: Calibration, host: HostTimes): Calibration => ({
  ...calibration,
  // A fit's time of a step is whole.
  stepMicros: calibration.source === "fitted" ? calibration.stepMicros : calibration.stepMicros || host.launchMicros,
  itemMicros: calibration.source === "fitted" ? calibration.itemMicros : calibration.itemMicros || host.itemMicros,
  layerMicros: calibration.layerMicros ?? host.layerMicros,
})

/** The layout of one rank, and the slabs that every rank holds: those given, or as many as its memory leaves room for. */
const slabsOf = (setup: Setup, options: RankFitOptions): { readonly layout: KvLayout; readonly slabs: number } => {
  const { device, engine, tensorParallel } = setup
  const fault = modelSplitFault(options.spec, tensorParallel)
  if (fault !== null) throw new SetupError(`tensorParallel ${tensorParallel}: ${fault}`)
  if (engine.slabs > 0) return { layout: rankMemory(options, tensorParallel).layout, slabs: engine.slabs }
  const fit = fitRank(options, tensorParallel)
  if (!("reason" in fit)) return { layout: fit.memory.layout, slabs: fit.slabs }
  throw new SetupError(
    `the model does not fit: ${fit.detail} (${tensorParallel} × ${device.label}, a share of ${engine.memoryUtilization}); ` +
      "use more devices a replica, or fewer slots",
  )
}
