import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import type { DeviceSpec } from "@uniprefill/cost-model/DeviceSpec"
import { weightBytes, type ModelShape } from "@uniprefill/cost-model/ModelShape"
import { operationWork } from "@uniprefill/cost-model/OperationWork"
import type { DropSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import type { DriverConfig } from "@uniprefill/scheduler/Driver"
import type { Policy } from "@uniprefill/scheduler/Policy"
import type { KeepProfile } from "./model/KeepProfile.ts"
import type { RouterKind } from "./Router.ts"

/** Everything that a run depends on but the workload. */
export interface Setup {
  readonly model: ModelShape
  readonly schedule: DropSchedule
  readonly keep: KeepProfile
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
}

export interface EngineSettings {
  readonly pageSize: number
  readonly slots: number
  readonly maxRowsPerStep: number
  readonly stepBudgetMicros: number
  readonly idleStepBudgetMicros: number
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
  /** A selection that the host reads while the step waits. */
  readonly readBackMicros: number
  /** From arrival to submission, and for each prompt token. */
  readonly admissionMicros: number
  readonly tokenizeMicrosPerToken: number
  readonly reductionMicros: number
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

const workspaceBytes = 2 * 1024 ** 3

/**
 * The configuration of one replica's serving loop. Fails with SetupError, with the numbers, when the model or a single
 * request does not fit.
 */
export const driverConfig = (setup: Setup): DriverConfig & { readonly costModel: DeviceCostModel } => {
  const { model, schedule, device, engine, host, tensorParallel } = setup
  const { spec } = model
  checkRanks(setup)
  const layout = makeKvLayout(spec, schedule, {
    pageSize: engine.pageSize,
    kvElementBytes: model.kvBytes,
    carryElementBytes: 2,
  })
  const costModel = new DeviceCostModel({
    device,
    work: operationWork(model, layout, tensorParallel),
    experts: model.experts?.count ?? 0,
    activeExperts: model.experts?.active ?? 0,
    lastQ: schedule.lastQ,
    maxRowsPerStep: engine.maxRowsPerStep,
    stepMicros: host.launchMicros,
    itemMicros: host.itemMicros,
    reductionMicros: host.reductionMicros,
    efficiency: engine.efficiency,
  })
  return {
    layout,
    schedule,
    slabs: engine.slabs > 0 ? engine.slabs : slabsThatFit(setup, layout.slabBytes, layout.stateSlotBytes),
    slots: engine.slots,
    stateSlots: layout.stateSlotBytes > 0 ? engine.slots : 0,
    maxRowsPerStep: engine.maxRowsPerStep,
    costModel,
    policy: setup.policy,
    stepBudgetMicros: engine.stepBudgetMicros,
    idleStepBudgetMicros: engine.idleStepBudgetMicros,
    maxPrefillWaitMicros: engine.maxPrefillWaitMicros,
    protectAfter: engine.protectAfter,
    protectAfterMicros: engine.protectAfterMicros,
    maxStepsInFlight: engine.maxStepsInFlight,
    maxModelLen: Math.min(engine.maxModelLen, spec.maxPositions),
    maxWaiting: engine.maxWaiting,
    maxWaitingTokens: engine.maxWaitingTokens,
  }
}

const checkRanks = ({ model, tensorParallel }: Setup): void => {
  const { heads, kvHeads } = model.spec
  if (heads % tensorParallel !== 0)
    throw new SetupError(`tensorParallel ${tensorParallel} does not divide ${heads} attention heads`)
  if (tensorParallel > kvHeads ? tensorParallel % kvHeads !== 0 : kvHeads % tensorParallel !== 0) {
    throw new SetupError(`tensorParallel ${tensorParallel} and ${kvHeads} K/V heads do not divide one another`)
  }
}

/** A slab is spread over the ranks, so the pool is what all of them have left; replicated K/V heads take their place again. */
const slabsThatFit = (setup: Setup, slabBytes: number, stateSlotBytes: number): number => {
  const { device, tensorParallel, model, engine } = setup
  const gigabytes = (bytes: number) => `${(bytes / 1e9).toFixed(1)} GB`
  const weights = weightBytes(model)
  const states = stateSlotBytes * engine.slots
  const memory = device.memoryBytes * tensorParallel * engine.memoryUtilization
  const left = memory - weights - states - workspaceBytes * tensorParallel
  const replication = Math.max(1, tensorParallel / model.spec.kvHeads)
  const slabs = Math.floor(left / (slabBytes * replication))
  if (slabs < 1) {
    throw new SetupError(
      `the model does not fit: weights ${gigabytes(weights)}, recurrent states ${gigabytes(states)} and workspace ` +
        `${gigabytes(workspaceBytes * tensorParallel)} leave nothing of ${gigabytes(memory)} ` +
        `(${tensorParallel} × ${device.label} × ${engine.memoryUtilization}); use more devices a replica or smaller slots`,
    )
  }
  return slabs
}
