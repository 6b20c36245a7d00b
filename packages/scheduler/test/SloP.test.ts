import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import type { DriverConfig } from "@uniprefill/scheduler/Driver"
import type { Request, Submission } from "@uniprefill/scheduler/Request"
import { describe, expect, it } from "vitest"
import { full, specOf } from "../../../test/simulation/Models.ts"
import { loop, prompt } from "./Loop.ts"

const schedule = { ...denseSchedule, dropLayers: [{ layer: 1, p: 0.9 }], minPromptTokens: 1 }
const layout = makeKvLayout(specOf([full, full, full, full]), schedule, {
  pageSize: 64,
  kvElementBytes: 2,
  carryElementBytes: 2,
})

/** A µs for each row of each of the two segments: 600 µs for the prompt below where nothing is dropped. */
const costModel: DriverConfig["costModel"] = { stepMicros: ({ rows }) => 1 + rows[0]! + rows[1]! }

const lowering = (over: Partial<DriverConfig> = {}) =>
  loop({ layout, schedule, slabs: 200, sloP: 0.5, costModel, ...over })

const late = (fields: Partial<Submission> = {}) =>
  prompt({ promptLength: 300, drops: true, deadlineMicros: 100, ...fields })

const requestOf = (outcome: ReturnType<ReturnType<typeof loop>["submit"]>): Request => {
  if (outcome._tag !== "Queued") throw new Error(outcome.detail)
  return outcome.request
}

describe("a prompt whose first token would be late", () => {
  it("is served at the operator's p, under a content of its own that the plan opens", () => {
    const { submit, perform, contents, events } = lowering()
    const request = requestOf(submit(late()))
    const first = request.contentId
    perform((driver) => driver.tick(0))
    expect(request.account.isLowered).toBe(true)
    expect(request.contentId).not.toBe(first)
    expect(events).toEqual(["open 0"])
    // What was put at the schedule's p is forgotten.
    expect([...contents]).toEqual([])
  })

  it("takes the contents of its further answers with it", () => {
    const { submit, perform, contents, events } = lowering()
    const request = requestOf(submit(late({ answers: 3 })))
    perform((driver) => driver.tick(0))
    expect(request.account.isLowered).toBe(true)
    expect(events).toEqual(["open 0", "open 1", "open 2"])
    expect([...contents]).toEqual([])
  })

  it.each<[string, Partial<Submission>, Partial<DriverConfig>]>([
    ["it is in time", { deadlineMicros: 900 }, {}],
    ["nobody waits for it", { deadlineMicros: undefined }, {}],
    ["its client named a p", { fixedP: true }, {}],
    ["it drops nothing", { drops: false }, {}],
    ["the operator names no p", {}, { sloP: undefined }],
  ])("unless %s", (_, fields, over) => {
    const { submit, perform } = lowering(over)
    const request = requestOf(submit(late(fields)))
    const { contentId } = request
    perform((driver) => driver.tick(0))
    expect(request.phase).toBe("prefill")
    expect(request.account.isLowered).toBe(false)
    expect(request.contentId).toBe(contentId)
  })

  it("is lowered for those behind it, which would be late after it", () => {
    for (const [deadlineMicros, isLowered] of [
      [1500, true],
      [2500, false],
    ] as const) {
      const { submit, perform } = lowering({ maxWaitingTokens: 10_000 })
      const first = requestOf(submit(late({ deadlineMicros: 10_000 })))
      for (let i = 0; i < 2; i++) submit(late({ deadlineMicros }))
      perform((driver) => driver.tick(0))
      expect(first.account.isLowered).toBe(isLowered)
    }
  })
})

it("refuses a p that is none", () => {
  expect(() => lowering({ sloP: 1.5 })).toThrow("sloP must be from 0 to 1, got 1.5")
})
