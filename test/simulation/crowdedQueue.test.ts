import { denseSchedule } from "@uniprefill/model/DropSchedule"
import { Memory } from "@uniprefill/scheduler/Memory"
import type { Policy } from "@uniprefill/scheduler/Policy"
import { policyByName } from "@uniprefill/scheduler/policies/PolicyByName"
import { PrefillStage } from "@uniprefill/scheduler/PrefillStage"
import type { Request } from "@uniprefill/scheduler/Request"
import type { ServingState } from "@uniprefill/scheduler/ServingState"
import fc from "fast-check"
import { afterEach, expect, it, vi } from "vitest"
import { full, specOf } from "./Models.ts"
import { VirtualServer } from "./VirtualServer.ts"

afterEach(() => {
  vi.restoreAllMocks()
})

/** The stage of planning, as the planted fault sees it. */
type Planning = { first: Request | null; state: ServingState }

interface Crowd {
  readonly policy: "shortest-prefill" | "priority" | "fair-share"
  readonly waiting: number
  readonly prompt: number
  readonly holders: number
}

/**
 * What plans look at while two or more answers hold the memory that many prompts wait for: prompts put in order, and prompts asked of
 * memory, in 40 steps. Time is not measured, so a slow machine changes nothing.
 */
const lookedAt = ({ policy: name, waiting, prompt, holders }: Crowd, protectAfterMicros: number): number => {
  let looked = 0
  const named = policyByName(name)!
  const policy: Policy = {
    ...named,
    order: (queue, now) => {
      looked += queue.length
      return named.order!(queue, now)
    },
  }
  const canAdmit = vi.spyOn(Memory.prototype, "canAdmit")
  const long = { promptLength: 4000, maxTokens: 4000, drops: false }
  const config = {
    policy,
    slots: 16,
    protectAfter: 1_000_000,
    protectAfterMicros,
    maxWaiting: 10_000,
    maxWaitingTokens: 1e9,
    maxModelLen: 8192,
  }
  const spec = specOf([full, full])
  const probe = new VirtualServer({ spec, schedule: denseSchedule, config })
  const each = probe.driver.scheduler.memory.worstCase(probe.submit(long))
  const server = new VirtualServer({ spec, schedule: denseSchedule, config: { ...config, slabs: each * holders } })
  for (let i = 0; i < holders; i++) server.submit(long)
  while (server.driver.scheduler.decoding.length < holders) server.step()
  const answered = server.driver.scheduler.decoding[0]!
  // Nobody finds room in what is left for the rest of the answers.
  while (answered.outputs < 3000) server.step()
  for (let i = 0; i < waiting; i++) server.submit({ promptLength: prompt + (i % 64), maxTokens: 10, drops: false })
  // Each is refused once.
  for (let i = 0; i < waiting / 16 + 8; i++) server.step()
  looked = 0
  canAdmit.mockClear()
  for (let i = 0; i < 40; i++) server.step()
  expect(server.driver.waiting).toBe(waiting)
  return looked + canAdmit.mock.calls.length
}

const crowds = fc.record({
  policy: fc.constantFrom("shortest-prefill" as const, "priority" as const, "fair-share" as const),
  waiting: fc.constantFrom(200, 1000, 4096),
  prompt: fc.integer({ min: 5000, max: 7000 }),
  holders: fc.integer({ min: 2, max: 4 }),
})

const check = () => {
  fc.assert(
    fc.property(crowds, (crowd) => {
      const before = lookedAt(crowd, Number.MAX_SAFE_INTEGER)
      const after = lookedAt(crowd, 0)
      expect(after).toBeLessThanOrEqual(2 * before + 4 * 40)
    }),
    { numRuns: 4, seed: 5, endOnFailure: true },
  )
}

it("a front that is protected makes no plan look at more of those that wait for memory than without it", () => {
  expect(check).not.toThrow()
})

it("and would, if every plan with a protected front put all of them in order again", () => {
  const stage = PrefillStage.prototype as unknown as Record<
    "fill",
    (this: Planning, plan: unknown, now: number) => void
  >
  const { fill } = stage
  vi.spyOn(stage, "fill").mockImplementation(function (this: Planning, plan, now) {
    if (this.first !== null) this.state.ranking.ordered([...this.state.waiting], now).next()
    fill.call(this, plan, now)
  })
  expect(check).toThrow(/Property failed/)
})
