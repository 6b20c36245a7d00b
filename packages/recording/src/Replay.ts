import { DeviceCostModel } from "@uniprefill/cost-model/DeviceCostModel"
import { Driver, type DriverConfig } from "@uniprefill/scheduler/Driver"
import type { Policy } from "@uniprefill/scheduler/Policy"
import { policyByName, policyNames } from "@uniprefill/scheduler/policies/PolicyByName"
import { type Section, sections } from "@uniprefill/scheduler/StepPlan"
import { StepResult } from "@uniprefill/scheduler/StepResult"
import { type RecordedEvent, type RecordedInput, type RecordedPlan, type RecordingHeader } from "./Recording.ts"
import { recordedPlan } from "./RecordingDriver.ts"

/** The first decision that came out differently. */
export interface PlanDifference {
  /** The recorded step. */
  readonly step: number
  /** The section of its plan that differs; null where the plan as a whole is missing, extra, or could not be made. */
  readonly section: Section | null
  /** Both sides, for people. */
  readonly detail: string
}

export interface ReplayReport {
  /** Plans that came out as recorded. */
  readonly plans: number
  /** Events taken. */
  readonly events: number
  readonly difference: PlanDifference | null
  /** Of the replayed loop, up to the difference. */
  readonly preemptions: number
  readonly prefixHits: number
}

/**
 * Runs recorded events through the loop of this build and compares every plan with the recorded one. Depends on nothing
 * but the recording: costs, configuration and time come from it.
 *
 * `policy` is needed for recordings made with a policy from a module. Fails with RangeError where it is missing.
 */
export const replay = (
  header: RecordingHeader,
  events: Iterable<RecordedEvent>,
  policy: Policy | undefined = policyByName(header.policy.name, header.policy.options),
): ReplayReport => {
  if (policy === undefined) {
    throw new RangeError(
      `the recording was made with policy ${header.policy.name}; there are ${policyNames.join(", ")}, others are named by their module`,
    )
  }
  return new Player(header, events, policy).play()
}

/** Stops the loop in the middle of a call, once a difference is known. */
class Differs extends Error {}

class Player {
  private readonly driver: Driver
  private readonly inputs: Array<RecordedInput> = []
  private readonly recorded: Array<RecordedPlan> = []
  private next = 0
  private plans = 0
  private difference: PlanDifference | null = null

  constructor(header: RecordingHeader, events: Iterable<RecordedEvent>, policy: Policy) {
    for (const event of events) {
      if (event.e === "plan") this.recorded.push(event)
      else this.inputs.push(event)
    }
    const { layout, schedule, costs, limits } = header
    const config: DriverConfig = { ...limits, layout, schedule, costModel: new DeviceCostModel(costs), policy }
    this.driver = new Driver(config)
  }

  play(): ReplayReport {
    try {
      while (this.next < this.inputs.length) this.take(this.inputs[this.next++]!)
      const missing = this.recorded[this.plans]
      if (missing !== undefined) this.differs(missing.step, null, "this step was planned then and is not now")
    } catch (cause) {
      if (!(cause instanceof Differs)) {
        const step = this.recorded[this.plans]?.step ?? this.recorded.at(-1)?.step ?? 0
        this.difference = { step, section: null, detail: cause instanceof Error ? cause.message : String(cause) }
      }
    }
    const { scheduler } = this.driver
    return {
      plans: this.plans,
      events: this.next,
      difference: this.difference,
      preemptions: scheduler.preemptions,
      prefixHits: scheduler.memory.prefixHits,
    }
  }

  private take(event: RecordedInput): void {
    const { driver } = this
    switch (event.e) {
      case "submit":
        driver.submit(event.submission, event.now)
        return
      case "abort":
        driver.abort(event.id)
        return
      case "finish":
        driver.finish(event.id)
        return
      case "page":
        driver.pageFilled(event.id, event.key)
        return
      case "tick":
        for (const plan of driver.tick(event.now).plans) this.compare(recordedPlan(plan))
        return
      case "done":
        this.expectPlanned(event.step)
        driver.stepDone(resultOf(event))
        return
      case "failed":
        driver.stepFailed()
    }
  }

  /** A result comes for a step that was recorded as planned: it must have been planned here too. */
  private expectPlanned(step: number): void {
    const missing = this.recorded[this.plans]
    if (missing !== undefined && missing.step <= step && this.driver.stepInFlight !== step) {
      this.differs(missing.step, null, "this step was planned then and is not now")
    }
  }

  private compare(plan: RecordedPlan): void {
    const recorded = this.recorded[this.plans]
    if (recorded === undefined) return this.differs(plan.step, null, "this step is planned now and was not then")
    if (recorded.step !== plan.step) return this.differs(recorded.step, null, `step ${plan.step} is planned instead`)
    for (const name of sections) {
      const [length, hash] = plan.sections[name] ?? [0, 0]
      const [lengthThen, hashThen] = recorded.sections[name] ?? [0, 0]
      if (length !== lengthThen) this.differs(plan.step, name, `${lengthThen} integers then, ${length} now`)
      if (hash !== hashThen) this.differs(plan.step, name, `hash ${hex(hashThen)} then, ${hex(hash)} now`)
    }
    this.plans++
  }

  private differs(step: number, section: Section | null, detail: string): never {
    this.difference = { step, section, detail }
    throw new Differs()
  }
}

const resultOf = (event: RecordedInput & { readonly e: "done" }): StepResult => {
  const result = new StepResult()
  result.clear(event.step)
  result.deviceMicros = event.deviceMicros
  const flags = new Map<number, number>()
  for (let i = 0; i < event.flags.length; i += 2) flags.set(event.flags[i]!, event.flags[i + 1]!)
  for (const [place, slot] of event.slots.entries()) result.tokens.push3(slot, 0, flags.get(place) ?? 0)
  result.selections.pushAll(event.selections)
  result.failures.pushAll(event.failures)
  return result
}

const hex = (hash: number): string => (hash >>> 0).toString(16).padStart(8, "0")
