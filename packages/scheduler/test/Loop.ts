import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import type { Actions } from "@uniprefill/scheduler/Actions"
import { Driver, type DriverConfig } from "@uniprefill/scheduler/Driver"
import { fcfs } from "@uniprefill/scheduler/Policy"
import type { Request, Submission } from "@uniprefill/scheduler/Request"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { StepResult } from "@uniprefill/scheduler/StepResult"
import { full, specOf } from "../../../test/simulation/Models.ts"

/** Of a model that serves dense. */
export const layout = makeKvLayout(specOf([full, full, full, full]), denseSchedule, {
  pageSize: 64,
  kvElementBytes: 2,
  carryElementBytes: 2,
})

/** A serving loop whose steps end when they are asked to, with token 5 for every answer. */
export const loop = (
  over: Partial<DriverConfig> = {},
  afterTokens: (perform: Perform, request: Request) => void = () => {},
) => {
  const events: Array<string> = []
  const plans: Array<StepPlan> = []
  /** The prefill items of every plan. */
  const items: Array<Int32Array> = []
  const decoding = new Set<number>()
  /** Contents that the executor holds. */
  const contents = new Set<number>()
  const driver: Driver = new Driver({
    layout,
    schedule: denseSchedule,
    slabs: 12,
    slots: 4,
    stateSlots: 0,
    maxRowsPerStep: 512,
    costModel: { stepMicros: () => 1 },
    policy: fcfs,
    stepBudgetMicros: 10,
    idleStepBudgetMicros: 10,
    maxPrefillWaitMicros: 1000,
    protectAfter: 3,
    protectAfterMicros: 1e9,
    maxStepsInFlight: 1,
    maxModelLen: 2000,
    maxWaiting: 3,
    maxWaitingTokens: 1000,
    ...over,
  })
  const perform = (act: (driver: Driver) => Actions) => {
    const { tokens, finished, forgets, puts, plans: planned } = act(driver)
    const given = tokens.requests.slice(0, tokens.length)
    for (const { id } of given) events.push(`token ${id}`)
    for (const { request, reason, failure } of finished) {
      events.push(`${reason}${failure > 0 ? ` by failure ${failure}` : ""} ${request.id}`)
    }
    for (const id of forgets) contents.delete(id)
    for (const { contentId } of puts) contents.add(contentId)
    for (const plan of planned) {
      plans.push(plan)
      items.push(plan.items.data.slice(0, plan.items.length))
      for (let i = 0; i < plan.closes.length; i++) events.push(`close ${plan.closes.data[i]!}`)
      for (let i = 0; i < plan.opens.length; i += 2) {
        events.push(`open ${plan.opens.data[i]!}`)
        if (!contents.delete(plan.opens.data[i + 1]!)) throw new Error("a content is opened that is not there")
      }
    }
    for (const request of given) afterTokens(perform, request)
  }
  const submit = (submission: Submission, now = 0) => {
    const outcome = driver.submit(submission, now)
    if (outcome._tag !== "Queued") return outcome
    for (const { contentId } of [outcome.request, ...outcome.request.forks]) contents.add(contentId)
    return outcome
  }
  const step = (failures: ReadonlyArray<number> = []) => {
    perform(() => driver.tick(0))
    const plan = plans.shift()
    if (plan === undefined) return
    const result = new StepResult()
    result.clear(plan.stepId)
    for (let i = 0; i < plan.leaves.length; i++) decoding.delete(plan.leaves.data[i]!)
    for (let i = 0; i < plan.closes.length; i++) {
      if (decoding.has(plan.closes.data[i]!)) throw new Error("a slot that decodes is closed")
    }
    for (let i = 0; i < plan.joins.length; i += 2) decoding.add(plan.joins.data[i]!)
    for (const slot of decoding) result.tokens.push3(slot, 5, 0)
    for (let i = 0; i < plan.samples.length; i += 2) {
      const slot = plan.samples.data[i + 1]!
      if (failures.length === 0) result.tokens.push3(slot, 5, 0)
      else result.failures.push2(slot, failures[0]!)
    }
    perform(() => driver.stepDone(result))
    driver.checkIntegrity()
  }
  return { driver, events, items, plans, perform, submit, step, contents }
}
export type Perform = (act: (driver: Driver) => Actions) => void

export const prompt = (fields: Partial<Submission> = {}): Submission => ({
  promptLength: 100,
  maxTokens: 10,
  drops: false,
  ...fields,
})
