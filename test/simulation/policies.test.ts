import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises"
import { join } from "node:path"
import { pathToFileURL } from "node:url"
import { fcfs, type Policy, PolicyFault } from "@uniprefill/scheduler/Policy"
import { policyByName, policyNames } from "@uniprefill/scheduler/policies/PolicyByName"
import { tokenBudget } from "@uniprefill/scheduler/policies/TokenBudgetPolicy"
import type { Submission } from "@uniprefill/scheduler/Request"
import { loadPolicy } from "@uniprefill/scheduler/services/PolicyModule"
import { ItemField, sectionWidths } from "@uniprefill/scheduler/StepPlan"
import { Tenants } from "@uniprefill/scheduler/Tenants"
import { Effect } from "effect"
import { describe, expect, expectTypeOf, it } from "vitest"
import { deepSchedule, deepSpec } from "./Models.ts"
import { VirtualServer } from "./VirtualServer.ts"

const serverOf = (policy: Policy, config: ConstructorParameters<typeof VirtualServer>[0]["config"] = {}) =>
  new VirtualServer({
    spec: deepSpec,
    schedule: deepSchedule,
    config: { slots: 1, policy, protectAfter: 100, ...config },
  })

/** Names of requests in the order in which they got their first token, one slot for all; the first runs before all. */
const served = (policy: Policy, submissions: Readonly<Record<string, Partial<Submission>>>): ReadonlyArray<string> => {
  const server = serverOf(policy)
  server.submit({ promptLength: 100, drops: true, maxTokens: 5 })
  server.step()
  const names = new Map<number, string>()
  for (const [name, submission] of Object.entries(submissions)) {
    names.set(server.submit({ promptLength: 1000, drops: true, maxTokens: 3, ...submission }).id, name)
  }
  server.drain()
  return [...server.firstTokenAt.keys()].flatMap((id) => names.get(id) ?? [])
}

describe("the order in which prompts are served", () => {
  it("fcfs: of arrival", () => {
    expect(served(fcfs, { a: { promptLength: 9000 }, b: { priority: -5 }, c: {} })).toEqual(["a", "b", "c"])
  })

  it("priority: the lower first, then of arrival", () => {
    const submissions = { a: { priority: 1 }, b: {}, c: { priority: -1 }, d: {} }
    expect(served(policyByName("priority")!, submissions)).toEqual(["c", "b", "d", "a"])
  })

  it("shortest-prefill: by predicted time, so a long prompt that drops may go before a shorter one that does not", () => {
    const submissions = {
      long: { promptLength: 20_000 },
      dense: { promptLength: 9000, drops: false },
      short: { promptLength: 500 },
    }
    expect(served(policyByName("shortest-prefill")!, submissions)).toEqual(["short", "dense", "long"])
  })

  it("earliest-deadline: by when the first token is due, those without a deadline last", () => {
    const submissions = { a: {}, b: { deadlineMicros: 9_000_000 }, c: { deadlineMicros: 2_000_000 }, d: {} }
    expect(served(policyByName("earliest-deadline")!, submissions)).toEqual(["c", "b", "a", "d"])
  })

  it("fair-share: the tenant served least, whoever came first", () => {
    const submissions = {
      a1: { tenant: "a" },
      a2: { tenant: "a" },
      a3: { tenant: "a" },
      b1: { tenant: "b", promptLength: 600 },
      b2: { tenant: "b", promptLength: 600 },
    }
    expect(served(policyByName("fair-share")!, submissions)).toEqual(["b1", "a1", "b2", "a2", "a3"])
  })

  it("is arrival for ids that a policy leaves out", () => {
    const policy: Policy = {
      name: "favourite",
      order: (queue) => queue.filter((one) => one.id === 4).map(({ id }) => id),
    }
    expect(served(policy, { a: {}, b: {}, c: {} })).toEqual(["c", "a", "b"])
  })
})

describe("tenants", () => {
  it("earn nothing by staying away", () => {
    const tenants = new Tenants()
    const a = tenants.enter("a")
    a.served += 1000
    const b = tenants.enter("b")
    expect(b.served).toBe(1000)
    b.served += 50
    tenants.leave(a)
    tenants.leave(b)
    expect(tenants.enter("c").served).toBe(1050)
    expect(tenants.enter("a").served).toBe(1050)
  })

  it("are forgotten when thousands of others have come and gone", () => {
    const tenants = new Tenants()
    for (let i = 0; i < 10_000; i++) tenants.leave(tenants.enter(`tenant ${i}`))
    expect(tenants["idle"].size).toBe(4096)
    expect(tenants["live"].size).toBe(0)
  })
})

describe("token-budget", () => {
  it("bounds the rows of a step and the requests that run", () => {
    const server = serverOf(tokenBudget({ maxNumBatchedTokens: 512, maxNumSeqs: 3 }), { slots: 8 })
    let most = 0
    server.inspect = (plan) => {
      let rows = server.driver.scheduler.decoding.length
      const { data, length } = plan.items
      for (let i = 0; i < length; i += sectionWidths.items) rows += data[i + ItemField.rows]!
      expect(rows).toBeLessThanOrEqual(512)
      most = Math.max(most, rows)
      expect(server.driver.running).toBeLessThanOrEqual(3)
    }
    for (let i = 0; i < 8; i++) server.submit({ promptLength: 1500, drops: i % 2 === 0, maxTokens: 40 })
    server.drain()
    expect(most).toBe(512)
    expect([...server.ended.values()]).toEqual(Array.from({ length: 8 }, () => "length"))
  })

  it("refuses budgets without room for prefill", () => {
    expect(() => tokenBudget({ maxNumBatchedTokens: 100, maxNumSeqs: 64 })).toThrow(/maxNumSeqs \+ 64 = 128, got 100/)
    expect(() => policyByName("token-budget", { maxNumSeqs: 0 })).toThrow(/maxNumSeqs/)
    expect(() => policyByName("fcfs", { maxNumSeqs: 1 })).toThrow(/policy fcfs takes no option "maxNumSeqs"/)
    expect(policyByName("lifo")).toBeUndefined()
  })
})

describe("liveness is not the policy's", () => {
  const lifo: Policy = { name: "lifo", order: (queue) => queue.map(({ id }) => id).reverse() }

  it("serves who was passed over often enough", () => {
    const server = serverOf(lifo, { protectAfter: 4 })
    const first = server.submit({ promptLength: 1000, drops: true, maxTokens: 2 })
    server.submit({ promptLength: 100, drops: true, maxTokens: 2 })
    for (let i = 0; i < 30; i++) {
      server.submit({ promptLength: 100, drops: true, maxTokens: 2 })
      server.step()
      server.step()
    }
    expect(first.account.bypasses).toBe(4)
    server.drain()
    expect([...server.firstTokenAt.keys()].indexOf(first.id)).toBe(4)
  })

  it("goes on with prompts in prefill when the one ordered first finds no memory", () => {
    const server = serverOf(lifo, { slots: 4, slabs: 300, maxModelLen: 2048, idleStepBudgetMicros: 20_000 })
    for (let i = 0; i < 3; i++) server.submit({ promptLength: 1500, drops: true, maxTokens: 5 })
    server.step()
    const last = server.submit({ promptLength: 1500, drops: true, maxTokens: 5 })
    server.step()
    expect(last.phase).toBe("waiting")
    server.drain(2000)
    expect(server.ended.size).toBe(4)
  })
})

describe("a policy's faults", () => {
  const failing = (policy: Policy, config = {}) => {
    const server = serverOf(policy, config)
    for (let i = 0; i < 4; i++) server.submit({ promptLength: 200, drops: true, maxTokens: 1500 })
    return () => server.drain()
  }

  it("name it", () => {
    const policy = { name: "odd" }
    const cases: ReadonlyArray<readonly [Policy, RegExp]> = [
      [{ ...policy, order: () => [77] }, /^policy odd ordered request 77, which is not queued$/],
      [{ ...policy, order: () => [Number.NaN] }, /^policy odd ordered request NaN/],
      [{ ...policy, order: () => undefined as never }, /^policy odd failed in order: .*undefined/],
      [
        {
          ...policy,
          order: () => {
            throw new Error("no idea")
          },
        },
        /^policy odd failed in order: no idea$/,
      ],
    ]
    for (const [odd, message] of cases) {
      expect(failing(odd)).toThrow(message)
      expect(failing(odd)).toThrow(PolicyFault)
    }
  })

  it("of its victims too", () => {
    const little = { slots: 4, slabs: 420, maxModelLen: 2048 }
    expect(failing({ name: "odd", victims: () => [0] }, little)).toThrow(
      /^policy odd proposed request 0 as a victim, which does not run$/,
    )
    expect(failing({ name: "fine", victims: (running) => running.map(({ id }) => id) }, little)).not.toThrow()
  })

  it("do not include naming a request twice", () => {
    expect(failing({ name: "stammer", order: (queue) => queue.flatMap(({ id }) => [id, id]) })).not.toThrow()
  })
})

describe("what a policy sees", () => {
  it("has no output lengths", () => {
    expectTypeOf<Parameters<NonNullable<Policy["order"]>>[0][number]>().not.toHaveProperty("maxTokens")
    const peek: Policy = {
      name: "peek",
      order: (queue) => {
        // @ts-expect-error how long an output may get is not to be known
        expect(queue[0]!.maxTokens).toBeUndefined()
        // @ts-expect-error nor how long it is
        void queue[0]!.plannedOutputs
        // @ts-expect-error and nothing can be changed
        expect(() => (queue[0]!.priority = 1)).toThrow(TypeError)
        expect(Reflect.ownKeys(queue[0]!)).not.toContain("request")
        return []
      },
      victims: (running) => {
        // @ts-expect-error the same holds for those that run
        expect(running[0]!.maxTokens).toBeUndefined()
        return []
      },
    }
    expect(served(peek, { a: {}, b: {} })).toEqual(["a", "b"])
  })
})

describe("a policy from a module", () => {
  const inFolder = async (source: string, use: (url: string) => Promise<void>) => {
    const cache = join(import.meta.dirname, "../../.cache")
    await mkdir(cache, { recursive: true })
    const folder = await mkdtemp(join(cache, "policy-"))
    try {
      const file = join(folder, "policy.ts")
      await writeFile(file, source)
      await use(pathToFileURL(file).href)
    } finally {
      await rm(folder, { recursive: true })
    }
  }

  it("is the one in docs/policies.md, which serves short questions first", async () => {
    const text = await readFile(join(import.meta.dirname, "../../docs/policies.md"), "utf8")
    const source = /```ts policy\n([\s\S]*?)```/.exec(text)![1]!
    expect(source.trim().split("\n").length).toBeLessThanOrEqual(20)
    await inFolder(source, async (url) => {
      const policy = await Effect.runPromise(loadPolicy(url))
      expect(policy.name).toBe("short-first")
      const submissions = { a: { promptLength: 9000 }, b: { promptLength: 500 }, c: { promptLength: 900 } }
      expect(served(policy, submissions)).toEqual(["b", "c", "a"])
    })
  })

  it("or an error that names the module and what is wrong", async () => {
    const bad = [
      ["export const policy = {}", /policy\.ts: the default export is missing/],
      ["export default { name: 3 }", /policy\.ts: name is missing or not a string/],
      ["export default { name: 'x', order: 3 }", /policy\.ts: order is a number, expected a function/],
      ["export default { name: 'x', byPriority: 1 }", /policy\.ts: byPriority is a number, expected true or false/],
      ["export default { name: 'x', sort() {} }", /policy\.ts: there is no member "sort"/],
      ["throw new Error('broken')", /policy\.ts: broken/],
    ] as const
    for (const [source, message] of bad) {
      await inFolder(source, async (url) => {
        await expect(Effect.runPromise(loadPolicy(url))).rejects.toThrow(message)
      })
    }
  })
})

it("every policy serves the same requests to their ends", () => {
  const preempted: Array<boolean> = []
  for (const name of policyNames) {
    const server = serverOf(policyByName(name)!, { slots: 5, slabs: 600, maxModelLen: 4096 })
    for (let i = 0; i < 12; i++) {
      server.submit({
        promptLength: 100 + i * 100,
        drops: i % 3 > 0,
        maxTokens: 1500,
        priority: i % 4,
        tenant: `tenant ${i % 2}`,
        deadlineMicros: 10_000_000 - i * 100_000,
      })
    }
    server.drain()
    expect([...server.ended.values()]).toEqual(Array.from({ length: 12 }, () => "length"))
    preempted.push(server.driver.scheduler.preemptions > 0)
  }
  expect(preempted).toEqual(policyNames.map(() => true))
})
