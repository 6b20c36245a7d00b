import { checksumWords } from "@uniprefill/scheduler/Codec"
import type { Actions } from "@uniprefill/scheduler/Actions"
import { Driver, type DriverConfig, type SubmitOutcome } from "@uniprefill/scheduler/Driver"
import type { PageKey } from "@uniprefill/scheduler/PrefixTree"
import type { Submission } from "@uniprefill/scheduler/Request"
import { type Section, sections, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import type { RecordedEvent, RecordedInput, RecordedPlan, RecordedSubmission } from "./Recording.ts"

/** The serving loop, with everything that it is told and decides written down in order. */
export class RecordingDriver extends Driver {
  private readonly write: (event: RecordedEvent) => void
  private readonly mostInFlight: number

  constructor(config: DriverConfig, write: (event: RecordedEvent) => void) {
    super(config)
    this.write = write
    this.mostInFlight = config.maxStepsInFlight
  }

  override submit(submission: Submission, nowMicros: number): SubmitOutcome {
    this.write({ e: "submit", now: nowMicros, submission: withoutNames(submission) })
    return super.submit(submission, nowMicros)
  }

  override abort(id: number): Actions {
    this.write({ e: "abort", id })
    return super.abort(id)
  }

  override finish(id: number): Actions {
    this.write({ e: "finish", id })
    return super.finish(id)
  }

  override pageFilled(id: number, key: PageKey): void {
    this.write({ e: "page", id, key: hashName(key) })
    super.pageFilled(id, key)
  }

  override stepDone(result: StepResult): Actions {
    this.write(withoutTokens(result))
    return super.stepDone(result)
  }

  override stepFailed(): Actions {
    this.write({ e: "failed" })
    return super.stepFailed()
  }

  override tick(nowMicros: number): Actions {
    // A tick that can plan nothing changes nothing.
    if (this.stepsInFlight < this.mostInFlight && this.scheduler.hasWork) this.write({ e: "tick", now: nowMicros })
    const actions = super.tick(nowMicros)
    for (const plan of actions.plans) this.write(recordedPlan(plan))
    return actions
  }
}

export const recordedPlan = (plan: StepPlan): RecordedPlan => {
  const hashes: { -readonly [S in Section]?: readonly [number, number] } = {}
  for (const name of sections) {
    const { data, length } = plan[name]
    if (length > 0) hashes[name] = [length, checksumWords(data, length)]
  }
  return { e: "plan", step: plan.stepId, sections: hashes }
}

const withoutTokens = ({ stepId, deviceMicros, tokens, selections, failures }: StepResult): RecordedInput => {
  const slots: Array<number> = []
  const flags: Array<number> = []
  for (let i = 0; i < tokens.length; i += 3) {
    const flag = tokens.data[i + 2]!
    if (flag !== 0) flags.push(slots.length, flag)
    slots.push(tokens.data[i]!)
  }
  return {
    e: "done",
    step: stepId,
    deviceMicros,
    slots,
    flags,
    selections: selections.toArray(),
    failures: failures.toArray(),
  }
}

const withoutNames = ({ pageKeys, tenant, ...rest }: Submission): RecordedSubmission => ({
  ...rest,
  ...(tenant === undefined ? {} : { tenant: hashName(tenant) }),
  ...(pageKeys === undefined
    ? {}
    : { pageKeys: Array.from({ length: pageKeys.length }, (_, page) => hashName(pageKeys.at(page)!)) }),
})

/** 64 bits of a name, in two lanes; equal names only are to be told from different ones. */
const hashName = (key: PageKey): string => {
  const name = String(key)
  let a = 0x811c9dc5
  let b = 0x2545f491
  for (let i = 0; i < name.length; i++) {
    const unit = name.charCodeAt(i)
    a = Math.imul(a ^ unit, 0x01000193)
    b = Math.imul((b << 13) ^ (b >>> 19) ^ unit, 0x85ebca6b)
  }
  return [a, b].map((lane) => ((lane ^ (lane >>> 15)) >>> 0).toString(36)).join("-")
}
