import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { fcfs, type Policy } from "@uniprefill/scheduler/Policy"
import { priority } from "@uniprefill/scheduler/policies/Priority"
import type { Submission } from "@uniprefill/scheduler/Request"
import { FailureReason, StepResult } from "@uniprefill/scheduler/StepResult"
import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { full, specOf } from "../../../test/simulation/Models.ts"
import { loop, prompt } from "./Loop.ts"

it("runs a prompt on into a segment only where the step has rows for all that it may keep", () => {
  const schedule = { ...denseSchedule, dropLayers: [{ layer: 1, p: 0.9 }], minPromptTokens: 1 }
  const dropping = makeKvLayout(specOf([full, full, full, full]), schedule, {
    pageSize: 64,
    kvElementBytes: 2,
    carryElementBytes: 2,
  })
  const { perform, submit, step, items } = loop({ layout: dropping, schedule, slabs: 200 })
  submit(prompt({ promptLength: 10, maxTokens: 100 }))
  step()
  step()
  // One row decodes: 511 are left in each segment, and the prompt's 512 may all be kept.
  submit(prompt({ promptLength: 512, drops: true }))
  step()
  perform((driver) => driver.tick(0))
  expect(items.slice(-2).map((item) => [...item.subarray(1)])).toEqual([
    [0, 448, 0, 0],
    [448, 64, 0, 0],
  ])
})

it("counts what other prompts bring to a segment before it adds a dense one, which passes all", () => {
  const schedule = { ...denseSchedule, dropLayers: [{ layer: 1, p: 0.9 }], minPromptTokens: 1 }
  const dropping = makeKvLayout(specOf([full, full, full, full]), schedule, {
    pageSize: 64,
    kvElementBytes: 2,
    carryElementBytes: 2,
  })
  const { perform, submit, step, items } = loop({ layout: dropping, schedule, slabs: 200 })
  submit(prompt({ promptLength: 150, maxTokens: 5 }))
  submit(prompt({ promptLength: 400, drops: true }))
  step()
  submit(prompt({ promptLength: 300 }))
  perform((driver) => driver.tick(0))
  // 80 rows are left of the second, which may keep all 400; with a row that decodes that leaves 111 of 512.
  expect(items.at(-1)!.filter((_, i) => i % 5 === 2)).toEqual(Int32Array.of(80, 64))
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

describe("a crowded queue", () => {
  const crowd = (policy: Policy, maxWaiting: number, tenantShare: number) => {
    const { driver } = loop({ maxWaiting, maxWaitingTokens: 1e6, slabs: 1000, policy, tenantShare })
    const submit = (tenant: string, level: number) =>
      driver.submit(prompt({ promptLength: 10, tenant, priority: level }), 0)
    const fill = (tenant: string, level: number) => {
      for (let taken = 0; ; taken++) {
        const outcome = submit(tenant, level)
        if (outcome._tag !== "Queued") return { taken, detail: (outcome as { readonly detail: string }).detail }
      }
    }
    return { driver, submit, fill }
  }

  it("has room for other priorities, of the same tenant too", () => {
    const { driver, submit, fill } = crowd(priority, 100, 8)
    const first = fill("a", 1)
    expect(first.detail).toMatch(/^88 requests of this tenant and priority 1 are waiting, at most 64 may while 88 wait/)
    expect(submit("a", 0)._tag).toBe("Queued")
    expect(submit("b", 1)._tag).toBe("Queued")
    expect(submit("b", 0)._tag).toBe("Queued")
    driver.checkIntegrity()
  })

  it("goes by priority from when the policy does", () => {
    const { driver, submit, fill } = crowd(fcfs, 100, 8)
    expect(fill("", 1)).toEqual({ taken: 100, detail: "100 requests are waiting, at most 100 may" })
    driver.abort(1)
    expect(submit("", 1)._tag).toBe("Queued")
    driver.abort(2)
    driver.adjust({ policy: priority })
    expect(submit("", 1)).toMatchObject({ _tag: "QueueFull", detail: expect.stringContaining("and priority 1") })
    expect(submit("", 0)._tag).toBe("Queued")
  })

  it("takes as many alike as it says, whatever its size and share", () => {
    const sizes = fc.record({
      maxWaiting: fc.integer({ min: 1, max: 60 }),
      share: fc.integer({ min: 1, max: 9 }),
      tenant: fc.constantFrom("", "a"),
      policy: fc.constantFrom(fcfs, priority),
    })
    fc.assert(
      fc.property(sizes, ({ maxWaiting, share, tenant, policy }) => {
        const { driver, fill } = crowd(policy, maxWaiting, share)
        expect(fill(tenant, 1).taken).toBe(driver.mostAlike(tenant))
      }),
    )
  })
})

describe("several answers", () => {
  it("compute their prompt once, and end each by itself", () => {
    const { driver, events, perform, submit, step } = loop()
    const outcome = submit(prompt({ answers: 3, maxTokens: 2 }))
    if (outcome._tag !== "Queued") throw new Error(outcome.detail)
    expect(outcome.request.forks.map(({ id }) => id)).toEqual([2, 3])
    step()
    expect(events.splice(0)).toEqual(["open 0", "open 1", "open 2", "token 1", "token 2", "token 3"])
    perform(() => driver.abort(2))
    step()
    // The last step closes what is left open.
    step()
    expect(events.splice(0, 4)).toEqual(["abort 2", "close 1", "token 3", "token 1"])
    expect(events).toEqual(["length 3", "length 1", "close 2", "close 0"])
    expect([driver.running, driver.waiting, driver.scheduler.memory.used]).toEqual([0, 0, 0])
  })

  it("go on when the first of them has stopped with its first token", () => {
    const { driver, events, submit, step } = loop({}, (perform, request) => {
      if (request.id === 1 && request.outputs === 1) perform((of) => of.finish(1))
    })
    submit(prompt({ answers: 2, maxTokens: 3 }))
    for (let i = 0; i < 6; i++) step()
    expect(events.filter((event) => event.startsWith("token"))).toEqual(["token 1", "token 2", "token 2", "token 2"])
    expect([driver.running, driver.scheduler.memory.used]).toEqual([0, 0])
  })

  it("end together while their prompt is not computed, and their contents are forgotten", () => {
    const { driver, events, perform, submit, contents } = loop()
    submit(prompt({ answers: 3 }))
    expect(contents.size).toBe(3)
    perform(() => driver.abort(1))
    expect(events).toEqual(["abort 2", "abort 3", "abort 1"])
    expect(driver.waiting).toBe(0)
    expect(contents.size).toBe(0)
    driver.checkIntegrity()
  })
})

it("a failed step ends those that have a slot, and none of those that wait, further answers included", () => {
  const { driver, events, perform, submit, contents } = loop({ slots: 2 })
  submit(prompt({ answers: 2 }))
  submit(prompt({ answers: 2, maxTokens: 1 }))
  perform(() => driver.tick(0))
  perform(() => driver.stepFailed())
  expect(events.filter((event) => event.startsWith("error")).toSorted()).toEqual(["error 1", "error 2"])
  expect(driver.waiting).toBe(1)
  driver.checkIntegrity()
  // The executor has forgotten the slots: no plan closes them, and they are opened again at once.
  expect(contents.size).toBe(2)
  events.length = 0
  perform(() => driver.tick(0))
  expect(events.filter((event) => !event.startsWith("token"))).toEqual(["open 0", "open 1"])
  expect(driver.stepInFlight).toBe(1)
})

it("answers to a prompt that gives way while a step that fails has their first tokens get all of theirs later", () => {
  const urgent: Policy = {
    name: "urgent",
    victims: (running) => running.map(({ id }) => id),
    preempts: (waiting, running) => waiting.priority < running.priority,
  }
  const { driver, events, perform, plans, submit, step } = loop({ slots: 2, policy: urgent, maxStepsInFlight: 2 })
  submit(prompt({ answers: 2, maxTokens: 3, priority: 1 }))
  perform(() => driver.tick(0))
  submit(prompt({ maxTokens: 1 }))
  perform(() => driver.tick(0))
  expect(driver.scheduler.preemptions).toBe(1)
  perform(() => driver.stepFailed())
  perform(() => driver.abort(3))
  plans.length = 0
  for (let i = 0; i < 12; i++) step()
  expect(events.filter((event) => event.startsWith("length")).toSorted()).toEqual(["length 1", "length 2"])
  expect(driver.running).toBe(0)
})

it("a shell may end another request when it has been given a step's tokens", () => {
  const { driver, events, submit, step } = loop({}, (perform, request) => {
    if (request.id === 1 && request.outputs === 3) perform((of) => of.abort(2))
  })
  submit(prompt({ maxTokens: 6 }))
  submit(prompt({ maxTokens: 6 }))
  for (let i = 0; i < 10; i++) step()
  expect(events).toContain("abort 2")
  expect(events).toContain("length 1")
  expect([driver.running, driver.scheduler.memory.used]).toEqual([0, 0])
})

it("a slot that no token could be sampled for ends its request with an error, and nobody else's", () => {
  const { driver, events, submit, step } = loop()
  submit(prompt({ maxTokens: 4 }))
  step()
  submit(prompt())
  step([FailureReason.grammarEnd])
  expect(events).toEqual(["open 0", "token 1", "open 1", "token 1", "error by failure 2 2"])
  events.length = 0
  for (let i = 0; i < 4; i++) step()
  expect(events).toEqual(["close 1", "token 1", "token 1", "length 1", "close 0"])
  expect(driver.running).toBe(0)
})

it("a request that is preempted gets a new content, and the old one is never asked for", () => {
  const { driver, submit, step, contents, events } = loop({ slabs: 8, slots: 2, headroomTokens: 0 })
  submit(prompt({ maxTokens: 300 }))
  submit(prompt({ maxTokens: 300 }))
  for (let i = 0; i < 700; i++) step()
  expect(driver.scheduler.preemptions).toBeGreaterThan(0)
  expect(events.filter((event) => event.startsWith("length"))).toHaveLength(2)
  expect(contents.size).toBe(0)
})

describe("settings that change while the loop runs", () => {
  const sequences = (maxNumSeqs: number): Policy => ({ ...fcfs, tokenBudget: { maxNumBatchedTokens: 512, maxNumSeqs } })

  it("admit whom they let in, and no more", () => {
    const { driver, perform, submit, step } = loop({ policy: sequences(1), slabs: 40 })
    for (let i = 0; i < 3; i++) submit(prompt({ promptLength: 64, maxTokens: 100 }))
    step()
    expect([driver.running, driver.waiting]).toEqual([1, 2])
    driver.adjust({ policy: sequences(2) })
    perform(() => driver.tick(0))
    expect([driver.running, driver.waiting]).toEqual([2, 1])
  })

  it("keep what steps were measured to take", () => {
    const costModel = { stepMicros: () => 10 }
    const { driver, perform, submit } = loop({ costModel, stepBudgetMicros: 100, idleStepBudgetMicros: 100, slabs: 40 })
    submit(prompt({ promptLength: 64, maxTokens: 500 }))
    const predictions: Array<number> = []
    const run = (steps: number) => {
      for (let i = 0; i < steps; i++) {
        perform(() => {
          const actions = driver.tick(0)
          predictions.push(...actions.plans.map((plan) => plan.predictedMicros))
          return actions
        })
        const result = new StepResult()
        result.clear(driver.stepInFlight)
        result.deviceMicros = 40
        result.tokens.push3(0, 5, 0)
        perform(() => driver.stepDone(result))
      }
    }
    run(100)
    expect(predictions.slice(0, 2)).toEqual([10, 10])
    expect(predictions.at(-1)).toBeGreaterThan(35)
    driver.adjust({ stepBudgetMicros: 50 })
    run(1)
    expect(predictions.at(-1)).toBeGreaterThan(35)
  })
})
