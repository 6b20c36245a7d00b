import { checksumWords } from "@uniprefill/scheduler/Codec"
import { Driver, type DriverConfig, type DriverSink, type SubmitOutcome } from "@uniprefill/scheduler/Driver"
import type { PageKey } from "@uniprefill/scheduler/PrefixCache"
import type { Submission } from "@uniprefill/scheduler/Request"
import { type Section, sections, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import type { RecordedEvent, RecordedInput, RecordedPlan, RecordedSubmission } from "./Recording.ts"

/** Writes events in order, those that come from within the loop's calls to its shell with the number of the call. */
export class Tape {
  private readonly write: (event: RecordedEvent) => void
  private calls = 0
  /** The call that the shell is in, 0 outside any. */
  private within = 0

  constructor(write: (event: RecordedEvent) => void) {
    this.write = write
  }

  input(event: RecordedInput): void {
    this.write(this.within > 0 ? { ...event, at: this.within } : event)
  }

  /** The same sink, whose calls are counted and whose plans are written. */
  watch(sink: DriverSink): DriverSink {
    return wrapSink(
      sink,
      (call) => {
        const outer = this.within
        this.within = ++this.calls
        call()
        this.within = outer
      },
      (plan) => this.write(recordedPlan(plan)),
    )
  }
}

/** The serving loop, with everything that it is told and decides written down. */
export class RecordingDriver extends Driver {
  private readonly tape: Tape
  private readonly mostInFlight: number

  constructor(config: DriverConfig, sink: DriverSink, write: (event: RecordedEvent) => void) {
    const tape = new Tape(write)
    super(config, tape.watch(sink))
    this.tape = tape
    this.mostInFlight = config.maxStepsInFlight
  }

  override submit(submission: Submission, nowMicros: number): SubmitOutcome {
    this.tape.input({ e: "submit", now: nowMicros, submission: withoutNames(submission) })
    return super.submit(submission, nowMicros)
  }

  override abort(id: number): void {
    this.tape.input({ e: "abort", id })
    super.abort(id)
  }

  override finish(id: number, outputs: number): void {
    this.tape.input({ e: "finish", id, outputs })
    super.finish(id, outputs)
  }

  override pageFilled(id: number, key: PageKey): void {
    this.tape.input({ e: "page", id, key: hashName(key) })
    super.pageFilled(id, key)
  }

  override stepDone(result: StepResult): void {
    this.tape.input(withoutTokens(result))
    super.stepDone(result)
  }

  override stepFailed(): void {
    this.tape.input({ e: "failed" })
    super.stepFailed()
  }

  override tick(nowMicros: number): void {
    // A tick that can plan nothing changes nothing.
    if (this.stepsInFlight >= this.mostInFlight || !this.scheduler.hasWork) return
    this.tape.input({ e: "tick", now: nowMicros })
    super.tick(nowMicros)
  }
}

/** A sink each of whose calls is made by `around`; plans are shown to `planned` first. */
export const wrapSink = (
  sink: DriverSink,
  around: (call: () => void) => void,
  planned: (plan: StepPlan) => void,
): DriverSink => ({
  openSlot: (request) => around(() => sink.openSlot(request)),
  closeSlot: (slot) => around(() => sink.closeSlot(slot)),
  submit: (plan) => {
    planned(plan)
    around(() => sink.submit(plan))
  },
  token: (request, token, index, flags) => around(() => sink.token(request, token, index, flags)),
  selected: (request, segment, bitmap, kept, flags) =>
    around(() => sink.selected(request, segment, bitmap, kept, flags)),
  finished: (request, reason) => around(() => sink.finished(request, reason)),
})

export const recordedPlan = (plan: StepPlan): RecordedPlan => {
  const hashes: { -readonly [S in Section]?: readonly [number, number] } = {}
  for (const name of sections) {
    const { data, length } = plan[name]
    if (length > 0) hashes[name] = [length, checksumWords(data, length)]
  }
  return { e: "plan", step: plan.stepId, sections: hashes }
}

const withoutTokens = ({ stepId, deviceMicros, tokens, selections }: StepResult): RecordedInput => {
  const slots: Array<number> = []
  const flags: Array<number> = []
  for (let i = 0; i < tokens.length; i += 3) {
    const flag = tokens.data[i + 2]!
    if (flag !== 0) flags.push(slots.length, flag)
    slots.push(tokens.data[i]!)
  }
  return { e: "done", step: stepId, deviceMicros, slots, flags, selections: selections.toArray() }
}

const withoutNames = ({ pageKeys, tenant, ...rest }: Submission): RecordedSubmission => ({
  ...rest,
  ...(tenant === undefined ? {} : { tenant: hashName(tenant) }),
  ...(pageKeys === undefined ? {} : { pageKeys: pageKeys.map(hashName) }),
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
