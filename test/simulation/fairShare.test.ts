import { aheadTokens, newTenant, Tenants } from "@uniprefill/scheduler/Tenants"
import fc from "fast-check"
import { afterEach, describe, expect, it, vi } from "vitest"
import { costOf, TenantLoad, type TenantRequest } from "./TenantLoad.ts"

afterEach(() => {
  vi.restoreAllMocks()
})

const integer = (min: number, max: number) => fc.integer({ min, max })
/** Always the same draws: whether a limit holds is no matter of luck. */
const runs = { numRuns: 8, seed: 7 }

/** What a tenant's requests are like: prompts from some length to some other, answers, and how many to a prompt. */
interface Kind {
  readonly least: number
  readonly most: number
  readonly maxTokens: number
  readonly answers: number
}

const kind = fc
  .record({
    least: fc.constantFrom(100, 300, 1000, 3000),
    times: integer(1, 3),
    maxTokens: fc.constantFrom(1, 8, 40, 100),
    answers: fc.constantFrom(1, 1, 1, 3),
  })
  .map(({ least, times, ...rest }): Kind => ({ ...rest, least, most: least * times }))

/** Requests of a tenant that come to so much work, all at once. */
const flood = (tenant: string, { least, most, maxTokens, answers }: Kind, work: number, atMicros = 0) => {
  const requests: Array<TenantRequest> = []
  for (let sum = 0; sum < work;) {
    const promptLength = least + ((requests.length * 7919) % (most - least + 1))
    const one = { tenant, atMicros, promptLength, maxTokens, answers }
    requests.push(one)
    sum += costOf(one)
  }
  return requests
}

/** What may lie between two tenants that are served in turn: a few of the largest requests, or answers of all slots, and what one comes ahead with. */
const allowance = (requests: ReadonlyArray<TenantRequest>, slots: number): number => {
  const cost = Math.max(...requests.map(costOf))
  const answers = Math.max(...requests.map((one) => costOf({ ...one, promptLength: 0, answers: 1 })))
  return 3 * Math.max(cost, slots * answers) + aheadTokens
}

/** How far the work done for tenants is apart at most from now on, while each of them has prompts that wait. */
const unevenness = (load: TenantLoad, tenants: ReadonlyArray<string>): number => {
  const before = tenants.map((tenant) => load.workOf(tenant))
  let most = 0
  load.until(() => {
    if (tenants.some((tenant) => load.waitingOf(tenant) === 0)) return true
    const work = tenants.map((tenant, i) => load.workOf(tenant) - before[i]!)
    most = Math.max(most, Math.max(...work) - Math.min(...work))
    return false
  })
  return most
}

const befores = ["nothing", "idle", "one long answer", "a trickle"] as const

/** A tenant floods; a second one, which has asked for little or nothing before, floods too. */
const checkNewcomer = (): void => {
  const load = fc.record({
    a: kind,
    b: kind,
    slots: integer(4, 12),
    before: fc.constantFrom(...befores),
    millis: integer(200, 1000),
  })
  fc.assert(
    fc.property(load, ({ a, b, slots, before, millis }) => {
      const from = millis * 1000
      const small = { tenant: "b", promptLength: 16, maxTokens: 4 }
      const early: Array<TenantRequest> = []
      if (before === "idle") early.push({ ...small, atMicros: 0 })
      if (before === "one long answer") early.push({ ...small, atMicros: 0, maxTokens: 10_000 })
      if (before === "a trickle") {
        for (let i = 0; i < millis / 20; i++) early.push({ ...small, atMicros: i * 20_000 })
      }
      const floods = [...flood("a", a, 200_000), ...flood("b", b, 30_000, from)]
      const served = new TenantLoad([...early, ...floods], slots)
      served.until(() => served.server.now >= from && served.waitingOf("b") > 2)
      expect(served.waitingOf("a")).toBeGreaterThan(0)
      expect(unevenness(served, ["a", "b"])).toBeLessThanOrEqual(allowance(floods, slots))
    }),
    { ...runs, endOnFailure: true },
  )
}

describe("fair-share: tenants whose prompts wait are served alike", () => {
  it("whatever the lengths of their prompts, their answers, and how many answers a prompt has", () => {
    const tenants = fc.record({ kinds: fc.array(kind, { minLength: 2, maxLength: 5 }), slots: integer(3, 12) })
    fc.assert(
      fc.property(tenants, ({ kinds, slots }) => {
        const names = kinds.map((_, i) => `t${i}`)
        const requests = kinds.flatMap((one, i) => flood(names[i]!, one, 20_000))
        const load = new TenantLoad(requests, slots)
        load.until(() => load.server.driver.waiting > 0)
        expect(unevenness(load, names)).toBeLessThanOrEqual(allowance(requests, slots))
      }),
      runs,
    )
  })

  it("whoever has asked for nothing before, has been away, has had one long answer, or asked for little", () => {
    expect(checkNewcomer).not.toThrow()
  })

  it("and would not be, if a tenant earned by a long answer what others got meanwhile", () => {
    vi.spyOn(Tenants.prototype, "enter").mockImplementation(function (this: Tenants, name) {
      // Lifted where it has no requests, not where none of them waits.
      const known = this.of(name)
      if (known !== undefined) {
        known.live++
        return known
      }
      const tenant = { ...newTenant(name), live: 1 }
      tenant.served = this["levelFor"](tenant)
      this["live"].set(name, tenant)
      return tenant
    })
    expect(checkNewcomer).toThrow(/Property failed after/)
  })

  it("however many there are: one that floods gets no more than each of a crowd that asks once", () => {
    const crowd = fc.record({ tenants: integer(20, 80), a: kind, other: kind, slots: integer(4, 12) })
    fc.assert(
      fc.property(crowd, ({ tenants, a, other, slots }) => {
        const from = 100_000
        const one = { ...other, answers: 1 }
        const others = Array.from({ length: tenants }, (_, i) => flood(`t${i}`, one, 1, from)[0]!)
        const floods = flood("a", a, 20_000 + 2 * others.reduce((sum, request) => sum + costOf(request), 0))
        const load = new TenantLoad([...floods, ...others], slots)
        load.until(() => load.server.now >= from)
        const before = load.workOf("a")
        load.until(() => others.every((request) => load.ttftMicros.has(request)))
        // What its slots held when the others came goes on.
        const held = slots * Math.max(...floods.map(costOf))
        const most = held + allowance([...floods, ...others], slots)
        expect(load.workOf("a") - before).toBeLessThanOrEqual(most)
      }),
      runs,
    )
  })
})
