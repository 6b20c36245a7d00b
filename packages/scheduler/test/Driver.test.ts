import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { Driver, type DriverConfig } from "@uniprefill/scheduler/Driver"
import { fcfs } from "@uniprefill/scheduler/Policy"
import type { Request, Submission } from "@uniprefill/scheduler/Request"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { StepResult, TokenFlag } from "@uniprefill/scheduler/StepResult"
import { describe, expect, it } from "vitest"
import { full, specOf } from "../../../test/simulation/Models.ts"

const layout = makeKvLayout(specOf([full, full, full, full]), denseSchedule, {
  pageSize: 64,
  kvElementBytes: 2,
  carryElementBytes: 2,
})

/** A loop whose steps end when they are asked to, with token 5 for every answer. */
const loop = (over: Partial<DriverConfig> = {}, onToken: (driver: Driver, request: Request) => void = () => {}) => {
  const events: Array<string> = []
  const plans: Array<StepPlan> = []
  const decoding = new Set<number>()
  const driver: Driver = new Driver(
    {
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
    },
    {
      openSlot: (request) => events.push(`open ${request.id}`),
      closeSlot: (slot) => {
        events.push("close")
        decoding.delete(slot)
      },
      submit: (plan) => plans.push(plan),
      token: (request) => {
        events.push(`token ${request.id}`)
        onToken(driver, request)
      },
      selected: () => {},
      finished: (request, reason) => events.push(`${reason} ${request.id}`),
    },
  )
  const step = (flags = 0) => {
    driver.tick(0)
    const plan = plans.shift()
    if (plan === undefined) return
    const result = new StepResult()
    result.clear(plan.stepId)
    for (let i = 0; i < plan.leaves.length; i++) decoding.delete(plan.leaves.data[i]!)
    for (let i = 0; i < plan.joins.length; i += 2) decoding.add(plan.joins.data[i]!)
    for (const slot of decoding) result.tokens.push3(slot, 5, 0)
    for (let i = 0; i < plan.samples.length; i += 2) result.tokens.push3(plan.samples.data[i + 1]!, 5, flags)
    driver.stepDone(result)
    driver.checkIntegrity()
  }
  return { driver, events, step }
}

const prompt = (fields: Partial<Submission> = {}): Submission => ({
  promptLength: 100,
  maxTokens: 10,
  drops: false,
  ...fields,
})

describe("submit", () => {
  it.each<[string, Partial<Submission>, string, RegExp]>([
    ["an empty prompt", { promptLength: 0 }, "TooLong", /at least 1 token, this one 0/],
    ["a prompt as long as the model", { promptLength: 2000 }, "TooLong", /2000 tokens; .* the model takes 2000/],
    [
      "an output beyond the model",
      { maxTokens: 1950 },
      "TooLong",
      /100 prompt tokens and 1950 output tokens make 2050/,
    ],
    ["no output", { maxTokens: 0 }, "TooLong", /at least 1 token, this one at most 0/],
    ["an output that is no number", { maxTokens: Number.NaN }, "TooLong", /at most NaN/],
    ["half a token", { maxTokens: 1.5 }, "TooLong", /at most 1\.5/],
    ["more than the memory", { maxTokens: 900 }, "TooLong", /may need \d+ slabs of memory; there are 12/],
    ["more answers than slots", { answers: 5 }, "TooLong", /5 answers to a prompt; from 1 to 4/],
    ["answers that share a prompt and still do not fit", { maxTokens: 300, answers: 4 }, "TooLong", /4 × 300 output/],
    ["prompts beyond the queue's tokens", { promptLength: 600 }, "QueueFull", /500 prompt tokens are waiting/],
  ])("refuses %s", (_, fields, tag, detail) => {
    const { driver } = loop()
    if (tag === "QueueFull") driver.submit(prompt({ promptLength: 500 }), 0)
    const outcome = driver.submit(prompt(fields), 0)
    expect(outcome).toMatchObject({ _tag: tag, detail: expect.stringMatching(detail) })
  })

  it("refuses keys of pages that the prompt does not fill", () => {
    expect(() => loop().driver.submit(prompt({ pageKeys: ["a", "b"] }), 0)).toThrow(/2 page keys for 100 tokens/)
  })

  it("gives as many output tokens as fit where none are stated, and caches the prompt only where that costs none", () => {
    const { driver } = loop()
    const outcome = driver.submit(prompt({ maxTokens: undefined, pageKeys: ["a"] }), 0)
    if (outcome._tag !== "Queued") throw new Error(outcome.detail)
    expect(driver.scheduler.memory.worstCase(outcome.request)).toBeLessThanOrEqual(12)
    expect(outcome.request.maxTokens).toBeGreaterThan(100)
  })
})

describe("several answers", () => {
  it("compute their prompt once, and end each by itself", () => {
    const { driver, events, step } = loop()
    const outcome = driver.submit(prompt({ answers: 3, maxTokens: 2 }), 0)
    if (outcome._tag !== "Queued") throw new Error(outcome.detail)
    expect(outcome.request.forks.map(({ id }) => id)).toEqual([2, 3])
    step()
    expect(events.splice(0)).toEqual(["open 1", "open 2", "open 3", "token 1", "token 2", "token 3"])
    driver.abort(2)
    step()
    expect(events.filter((event) => !event.startsWith("close"))).toEqual([
      "abort 2",
      "token 3",
      "length 3",
      "token 1",
      "length 1",
    ])
    expect([driver.running, driver.waiting, driver.scheduler.memory.used]).toEqual([0, 0, 0])
  })

  it("go on when the first of them has stopped with its first token", () => {
    const { driver, events, step } = loop({}, (loopOf, request) => {
      if (request.id === 1 && request.outputs === 1) loopOf.finish(1, 1)
    })
    driver.submit(prompt({ answers: 2, maxTokens: 3 }), 0)
    for (let i = 0; i < 6; i++) step()
    expect(events.filter((event) => event.startsWith("token"))).toEqual(["token 1", "token 2", "token 2", "token 2"])
    expect([driver.running, driver.scheduler.memory.used]).toEqual([0, 0])
  })

  it("end together while their prompt is not computed", () => {
    const { driver, events } = loop()
    driver.submit(prompt({ answers: 3 }), 0)
    driver.abort(1)
    expect(events).toEqual(["abort 2", "abort 3", "abort 1"])
    expect(driver.waiting).toBe(0)
    driver.checkIntegrity()
  })
})

it("a failed step ends those that have a slot, and none of those that wait, further answers included", () => {
  const { driver, events } = loop({ slots: 2 })
  driver.submit(prompt({ answers: 2 }), 0)
  driver.submit(prompt({ answers: 2 }), 0)
  driver.tick(0)
  driver.stepFailed()
  expect(events.filter((event) => event.startsWith("error")).toSorted()).toEqual(["error 1", "error 2"])
  expect(driver.waiting).toBe(1)
  driver.checkIntegrity()
})

it("a shell may end another request while it is given a token", () => {
  const { driver, events, step } = loop({}, (loopOf, request) => {
    if (request.id === 1 && request.outputs === 3) loopOf.abort(2)
  })
  driver.submit(prompt({ maxTokens: 6 }), 0)
  driver.submit(prompt({ maxTokens: 6 }), 0)
  for (let i = 0; i < 10; i++) step()
  expect(events).toContain("abort 2")
  expect(events).toContain("length 1")
  expect([driver.running, driver.scheduler.memory.used]).toEqual([0, 0])
})

it("a token that is no number ends its request with an error", () => {
  const { driver, events, step } = loop()
  driver.submit(prompt(), 0)
  step(TokenFlag.nonFinite)
  expect(events).toEqual(["open 1", "token 1", "close", "error 1"])
})
