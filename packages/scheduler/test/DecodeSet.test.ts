import { StepResult } from "@uniprefill/scheduler/StepResult"
import { expect, it } from "vitest"
import { loop, prompt } from "./Loop.ts"

it("counts the rows of each request that decodes, whenever it joined, and none beyond its last", () => {
  const { submit, step, events } = loop({ slabs: 100 })
  const requests = [3, 9, 5, 2].map((maxTokens, i) => {
    const outcome = submit(prompt({ promptLength: 20 + i, maxTokens }))
    if (outcome._tag !== "Queued") throw new Error(outcome.detail)
    const { request } = outcome
    const tokens = () => events.filter((event) => event === `token ${request.id}`).length
    // Two steps apart: they decode beside each other and end in another order than they came.
    step()
    step()
    return { request, maxTokens, tokens }
  })
  for (let i = 0; i < 12; i++) {
    for (const { request, maxTokens, tokens } of requests) {
      expect(request.progress.plannedOutputs).toBe(tokens())
      expect(request.progress.decodeRows).toBe(tokens() - 1)
      expect(request.progress.plannedOutputs).toBeLessThanOrEqual(maxTokens)
    }
    step()
  }
  expect(requests.map(({ tokens }) => tokens())).toEqual([3, 9, 5, 2])
})

it("gives a request no row beyond its last while a step is in flight", () => {
  const { driver, submit, perform } = loop({ slabs: 100, maxStepsInFlight: 2 })
  submit(prompt({ promptLength: 20, maxTokens: 2 }))
  submit(prompt({ promptLength: 20, maxTokens: 9 }))
  perform(() => driver.tick(0))
  const [short, long] = driver.scheduler.decoding
  const planned = () => [short!, long!].map(({ progress, flight }) => [progress.plannedOutputs, flight.lastStep])
  // The prompts with their first tokens, and one decode row of each: two steps in flight.
  expect([driver.stepsInFlight, planned()]).toEqual([
    2,
    [
      [2, 2],
      [2, 2],
    ],
  ])
  const result = new StepResult()
  result.clear(1)
  for (const { slot } of [short!, long!]) result.tokens.push3(slot, 5, 0)
  perform(() => driver.stepDone(result))
  perform(() => driver.tick(0))
  expect(planned()).toEqual([
    [2, 2],
    [3, 3],
  ])
})
