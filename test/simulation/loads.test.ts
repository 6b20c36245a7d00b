import fc from "fast-check"
import { describe, expect, it } from "vitest"
import { cases, slowCpu } from "./LoadCases.ts"
import { largest, type LoadRow, percentile, ServedLoad, stream } from "./Loads.ts"

describe("what single requests see under ordinary load", () => {
  it.each(cases.filter(({ limits }) => Object.keys(limits).length > 0).map((one) => [one.name, one] as const))(
    "%s",
    (_, { measure, limits }) => {
      const measured = measure()
      for (const [figure, limit] of Object.entries(limits)) {
        expect(measured[figure], `${figure} of ${JSON.stringify(measured)}`).toBeLessThanOrEqual(limit)
      }
    },
  )
})

/** Always the same draws: whether a limit holds is no matter of luck. */
const runs = { numRuns: 8, seed: 7 }
const integer = (min: number, max: number) => fc.integer({ min, max })

describe("loads of their kind", () => {
  it("fair-share: a flood of one tenant, whatever its prompts, delays nobody else, nor do the others delay it", () => {
    const flood = fc.record({
      count: integer(100, 400),
      prompt: integer(512, 16_384),
      answer: integer(16, 100),
      other: integer(64, 2048),
    })
    fc.assert(
      fc.property(flood, ({ count, prompt, answer, other }) => {
        const rows = [
          ...stream(count, 0, { promptTokens: prompt, outputTokens: answer, tenant: "a", group: "a" }),
          ...stream(12, 1, { promptTokens: other, outputTokens: 32, tenant: "b", group: "b" }, 1),
        ]
        // A slot for everybody: fair sharing is of time. And one budget, for a server where only one tenant decodes is never idle.
        const scenario = { policy: "fair-share", engine: { slots: 512, idleStepBudgetMs: 50 } }
        const served = new ServedLoad({ rows, scenario })
        const alone = new ServedLoad({ rows: rows.filter(({ group }) => group === "a"), scenario })
        expect(largest(served.ttft("b"))).toBeLessThanOrEqual(250)
        const work = 1 + (12 * (other + 64)) / (count * (prompt + 2 * answer))
        const [more, most] = [percentile(served.ttft("a"), 0.5) / percentile(alone.ttft("a"), 0.5), 1.03 * work]
        expect(more).toBeLessThanOrEqual(most)
      }),
      runs,
    )
  })

  it("fair-share: with every slot taken by short answers, others wait for one to end", () => {
    const flood = fc.record({
      count: integer(100, 400),
      prompt: integer(512, 16_384),
      answer: integer(1, 100),
      other: integer(64, 2048),
    })
    fc.assert(
      fc.property(flood, ({ count, prompt, answer, other }) => {
        const rows = [
          ...stream(count, 0, { promptTokens: prompt, outputTokens: answer, tenant: "a", group: "a" }),
          ...stream(12, 1, { promptTokens: other, outputTokens: 32, tenant: "b", group: "b" }, 1),
        ]
        // One budget: answers of a token decode nothing, and steps without decodes are long.
        const served = new ServedLoad({ rows, scenario: { policy: "fair-share", engine: { idleStepBudgetMs: 50 } } })
        expect(largest(served.ttft("b"))).toBeLessThanOrEqual(250)
      }),
      runs,
    )
  })

  it("fair-share: with every slot taken by long answers, others take one from the tenant that has most", () => {
    const flood = fc.record({
      slots: integer(8, 64),
      prompt: integer(512, 4096),
      answer: integer(1000, 8000),
      other: integer(64, 1024),
      from: integer(1, 10),
    })
    fc.assert(
      fc.property(flood, ({ slots, prompt, answer, other, from }) => {
        const rows = [
          ...stream(slots * 2, 0, { promptTokens: prompt, outputTokens: answer, tenant: "a", group: "a" }),
          ...stream(8, 1, { promptTokens: other, outputTokens: 32, tenant: "b", group: "b" }, from),
        ]
        const served = new ServedLoad({ rows, scenario: { policy: "fair-share", engine: { slots } } })
        expect(largest(served.ttft("b"))).toBeLessThanOrEqual(250)
      }),
      { ...runs, numRuns: 6 },
    )
  })

  it("fair-share: prompts of one tenant take no slot from each other, however long they wait for one", () => {
    const waits = fc.record({ slots: integer(2, 8), prompt: integer(512, 2048), answer: integer(6000, 9000) })
    fc.assert(
      fc.property(waits, ({ slots, prompt, answer }) => {
        const rows = stream(slots * 3, 0, { promptTokens: prompt, outputTokens: answer, tenant: "a" })
        const served = new ServedLoad({ rows, scenario: { policy: "fair-share", engine: { slots } } })
        expect(largest(served.ttft())).toBeGreaterThan(30_000)
        expect(served.simulation.replicas[0]!.driver.scheduler.preemptions).toBe(0)
      }),
      { ...runs, numRuns: 4 },
    )
  })

  it("priority: important prompts pass an overload of others", () => {
    const overload = fc.record({
      perSecond: integer(8, 12),
      prompt: integer(4096, 16_384),
      answer: integer(16, 100),
      important: integer(128, 2048),
    })
    fc.assert(
      fc.property(overload, ({ perSecond, prompt, answer, important }) => {
        const rows = [
          ...stream(20 * perSecond, perSecond, { promptTokens: prompt, outputTokens: answer, priority: 1 }),
          ...stream(10, 1, { promptTokens: important, outputTokens: 32, priority: 0, group: "important" }, 10),
        ]
        const served = new ServedLoad({ rows, scenario: { policy: "priority" } })
        expect(percentile(served.ttft("important"), 0.5)).toBeLessThanOrEqual(250)
      }),
      runs,
    )
  })

  it("prompts beside decodes that take the whole budget get their share of every step, and decodes theirs", () => {
    const busy = fc.record({
      decodes: integer(8, 32),
      rows: integer(8000, 40_000),
      prompt: integer(1024, 16_384),
      budget: integer(10, 50),
      device: fc.constantFrom("h200", "cpu"),
    })
    fc.assert(
      fc.property(busy, (drawn) => {
        const isCpu = drawn.device === "cpu"
        const [decodes, rows, prompt, budget] = isCpu
          ? [1 + (drawn.decodes % 4), drawn.rows >> 7, drawn.prompt >> 2, drawn.budget * 4]
          : [drawn.decodes, drawn.rows, drawn.prompt, drawn.budget]
        const load = (more: ReadonlyArray<LoadRow>, count = decodes) =>
          new ServedLoad({
            rows: [...stream(count, 0, { promptTokens: rows, outputTokens: 6000, group: "decodes" }), ...more],
            ...(isCpu ? { device: slowCpu } : {}),
            scenario: {
              schedule: "off",
              untilSeconds: 3600,
              device: "h200",
              engine: { stepBudgetMs: budget, idleStepBudgetMs: budget, maxPrefillWaitMs: 3_600_000 },
            },
          })
        const before = load([])
        const decoding = Math.max(...before.log.firstToken) / 1e6 + 1
        const asked = stream(1, 1, { promptTokens: prompt, outputTokens: 4, group: "prompt" }, decoding)
        const alone = load(asked, 0).ttft("prompt")[0]!
        const beside = load(asked)
        const step = percentile(before.gaps("decodes", 5000), 0.5)
        // What is left of the budget, a fifth at least; a chunk of the smallest size is saved up for.
        const share = Math.max(0.2, 1 - step / budget)
        expect(beside.ttft("prompt")[0]).toBeLessThanOrEqual((1.5 * alone) / share + 3 * Math.max(budget, step / 0.8))
        // The smallest chunk, saved up for, may take more than the share of one step.
        expect(percentile(beside.gaps("decodes", 500), 0.99)).toBeLessThanOrEqual(1.25 * Math.max(budget, step / 0.8))
      }),
      runs,
    )
  })

  it("shortest-prefill: a long prompt is passed for as long as its protection lets it be", () => {
    const load = fc.record({ short: integer(512, 4096), long: integer(16_384, 100_000), percent: integer(80, 130) })
    const alone = (promptTokens: number) =>
      new ServedLoad({ rows: stream(1, 0, { promptTokens, outputTokens: 1 }) }).ttft()[0]!
    fc.assert(
      fc.property(load, ({ short, long, percent }) => {
        const perSecond = (percent * 10) / alone(short)
        const rows = [
          ...stream(Math.ceil(perSecond * 30), perSecond, { promptTokens: short, outputTokens: 16 }),
          ...stream(1, 1, { promptTokens: long, outputTokens: 16, group: "long" }, 5),
        ]
        const served = new ServedLoad({ rows, scenario: { policy: "shortest-prefill" } })
        expect(served.ttft("long")[0]).toBeLessThanOrEqual(8 * alone(long) + 1000)
      }),
      runs,
    )
  })

  it("the first gap after a prompt is a step of the budget, with one step in flight and with two", () => {
    const prompts = fc.record({
      prompt: integer(2048, 65_536),
      everyMillis: integer(0, 2000),
      schedule: fc.constantFrom("off", "preset"),
      stepsInFlight: fc.constantFrom(1 as const, 2 as const),
      count: integer(2, 12),
    })
    fc.assert(
      fc.property(prompts, ({ prompt, everyMillis, schedule, stepsInFlight, count }) => {
        const rows = stream(count, 0, { promptTokens: prompt, outputTokens: 4 })
        const spread = rows.map((row, i) => ({ ...row, arrivalMicros: i * everyMillis * 1000 }))
        const served = new ServedLoad({ rows: spread, scenario: { schedule, engine: { stepsInFlight } } })
        expect(largest(served.firstGaps())).toBeLessThanOrEqual(1.5 * 50)
      }),
      { ...runs, numRuns: 30 },
    )
  })

  it("a tenant that floods the queue takes nobody else's place in it", () => {
    const flood = fc.record({ perSecond: integer(50, 400), prompt: integer(512, 8192), other: integer(64, 2048) })
    fc.assert(
      fc.property(flood, ({ perSecond, prompt, other }) => {
        const rows = [
          ...stream(perSecond * 20, perSecond, { promptTokens: prompt, outputTokens: 32, tenant: "a", group: "a" }),
          ...stream(20, 1, { promptTokens: other, outputTokens: 32, tenant: "b", group: "b" }, 0.5),
        ]
        const served = new ServedLoad({ rows, scenario: { policy: "fair-share" } })
        expect(served.count("b", "rejected")).toBe(0)
      }),
      runs,
    )
  })

  it("priority: others that flood the queue take no important prompt's place in it, whatever it is called", () => {
    const flood = fc.record({
      perSecond: integer(100, 400),
      prompt: integer(4096, 16_384),
      important: integer(64, 2048),
      level: integer(-2, 1),
    })
    fc.assert(
      fc.property(flood, ({ perSecond, prompt, important, level }) => {
        const group = "important"
        const rows = [
          ...stream(perSecond * 20, perSecond, { promptTokens: prompt, outputTokens: 32, priority: level + 1 }),
          ...stream(20, 1, { promptTokens: important, outputTokens: 32, priority: level, group }, 0.5),
        ]
        const served = new ServedLoad({ rows, scenario: { policy: "priority" } })
        expect(served.count("", "rejected")).toBeGreaterThan(0)
        expect(served.count(group, "rejected")).toBe(0)
        expect(largest(served.ttft(group))).toBeLessThanOrEqual(1000)
      }),
      runs,
    )
  })

  it("fcfs: a prompt that waits for memory holds no short one back that needs none of it", () => {
    const waits = fc.record({
      first: integer(80_000, 100_000),
      second: integer(80_000, 120_000),
      short: integer(64, 2048),
      shorts: integer(4, 20),
    })
    fc.assert(
      fc.property(waits, ({ first, second, short, shorts }) => {
        const rows = [
          // Decodes until the last short one has come.
          ...stream(1, 0, { promptTokens: first, outputTokens: 5000, group: "first" }),
          ...stream(1, 0, { promptTokens: second, outputTokens: 10, group: "second" }, 0.1),
          ...stream(shorts, 1, { promptTokens: short, outputTokens: 20 }, 12),
        ]
        const slabs = Math.ceil(Math.max(first + 5000, second + 10) / 128) + 500
        const served = new ServedLoad({
          rows,
          scenario: { schedule: "off", engine: { slabs, protectAfterMs: 60_000, protectAfter: 100 } },
        })
        expect(largest(served.ttft())).toBeLessThanOrEqual(1000)
      }),
      runs,
    )
  })

  it("memory for a few of many: admitting more than fit to their ends takes no longer than room for whole answers does, recomputed or not", () => {
    const tight = fc.record({
      requests: integer(16, 48),
      share: integer(4, 10),
      prompt: integer(256, 4096),
      answer: integer(1000, 4000),
    })
    fc.assert(
      fc.property(tight, ({ requests, share, prompt, answer }) => {
        const slabs = Math.ceil((1.1 + requests / share) * Math.ceil((prompt + answer) / 128))
        const makespan = (headroomTokens: number) => {
          const rows = stream(requests, 0, { promptTokens: prompt, outputTokens: answer })
          const served = new ServedLoad({ rows, scenario: { schedule: "off", engine: { slabs, headroomTokens } } })
          expect(served.count("", "completed")).toBe(requests)
          return served.makespan
        }
        expect(makespan(384)).toBeLessThanOrEqual(1.05 * makespan(answer))
      }),
      { ...runs, numRuns: 4 },
    )
  })

  /** Memory for `fit` requests of many that come at once: what is measured with turns, and without. */
  const tight = (answer: fc.Arbitrary<number>) =>
    fc.record({ fit: integer(2, 8), share: integer(4, 10), prompt: integer(256, 4096), answer })
  const serveTight = ({
    fit,
    share,
    prompt,
    answer,
  }: {
    fit: number
    share: number
    prompt: number
    answer: number
  }) => {
    const requests = Math.min(64, Math.max(16, fit * share))
    const slabs = Math.ceil((fit * (prompt + answer)) / 128)
    const serve = (engine: object) => {
      const rows = stream(requests, 0, { promptTokens: prompt, outputTokens: answer })
      const served = new ServedLoad({ rows, scenario: { schedule: "off", engine: { slabs, ...engine } } })
      expect(served.count("", "completed")).toBe(requests)
      return served
    }
    const served = serve({})
    const without = serve({ maxPauseMs: 0 })
    // What is computed again, by the time that rows of so long a prompt take.
    const whole = prompt + answer
    const alone = stream(1, 0, { promptTokens: whole, outputTokens: 1 })
    const rowMillis = largest(new ServedLoad({ rows: alone, scenario: { schedule: "off" } }).ttft()) / whole
    const again = (served.prefillRows - requests * prompt) * rowMillis
    return {
      pause: largest(served.gaps()),
      pauseWithout: largest(without.gaps()),
      timeAgain: again / served.stepMillis.reduce((sum, millis) => sum + millis, 0),
      makespan: served.makespan / without.makespan,
    }
  }

  it("memory for a few of many: answers take turns, so that none pauses for long, and that costs little", () => {
    const makespans: Array<number> = []
    fc.assert(
      fc.property(tight(integer(1000, 4000)), (load) => {
        const { pause, timeAgain, makespan } = serveTight(load)
        expect(pause).toBeLessThanOrEqual(15_000)
        expect(timeAgain).toBeLessThanOrEqual(0.2)
        makespans.push(makespan)
      }),
      { ...runs, numRuns: 20 },
    )
    // Of one load it is luck: who is preempted when decides how well the last ones fit.
    expect(percentile(makespans, 0.5)).toBeLessThanOrEqual(1.01)
    expect(largest(makespans)).toBeLessThanOrEqual(1.1)
  })

  it("memory for a few of many: computing again takes its share of the time on a device slower than predicted, too", () => {
    const serve = (engine: object) => {
      const rows = stream(64, 0, { promptTokens: 1024, outputTokens: 4000 })
      const faults = { slowSteps: 1, slowFactor: 4 }
      return new ServedLoad({ rows, scenario: { schedule: "off", faults, engine: { slabs: 314, ...engine } } })
    }
    expect(serve({}).makespan / serve({ maxPauseMs: 0 }).makespan).toBeLessThanOrEqual(1.1)
  })

  it("memory for a few of many: long answers pause for longer, rather than be computed again and again", () => {
    fc.assert(
      fc.property(tight(integer(4000, 16_000)), (load) => {
        const { pause, pauseWithout, timeAgain, makespan } = serveTight(load)
        expect(pause).toBeLessThanOrEqual(0.6 * pauseWithout)
        expect(timeAgain).toBeLessThanOrEqual(0.25)
        expect(makespan).toBeLessThanOrEqual(1.2)
      }),
      { ...runs, numRuns: 8 },
    )
  })

  it("priority: important prompts are served at once, whoever holds the slots", () => {
    const overload = fc.record({
      slots: fc.integer({ min: 4, max: 32 }),
      answer: fc.integer({ min: 500, max: 4000 }),
      prompt: fc.integer({ min: 256, max: 4096 }),
    })
    fc.assert(
      fc.property(overload, ({ slots, answer, prompt }) => {
        const rows = [
          ...stream(slots * 2, 0, { promptTokens: 1024, outputTokens: answer, priority: 1 }),
          ...stream(4, 1, { promptTokens: prompt, outputTokens: 32, priority: 0, group: "important" }, 2),
        ]
        const served = new ServedLoad({ rows, scenario: { policy: "priority", engine: { slots } } })
        expect(largest(served.ttft("important"))).toBeLessThanOrEqual(200)
      }),
      runs,
    )
  })

  it("a slow device gets smaller chunks: the time between tokens stays near the budget", () => {
    fc.assert(
      fc.property(fc.integer({ min: 12, max: 30 }), fc.integer({ min: 4096, max: 32_768 }), (tenths, prompt) => {
        const rows = [
          ...stream(8, 0, { promptTokens: 1024, outputTokens: 2000, group: "decodes" }),
          ...stream(20, 1, { promptTokens: prompt, outputTokens: 40 }, 2),
        ]
        const served = new ServedLoad({ rows, scenario: { faults: { slowSteps: 1, slowFactor: tenths / 10 } } })
        expect(percentile(served.gaps("decodes", 400), 0.99)).toBeLessThanOrEqual(1.2 * 50)
      }),
      runs,
    )
  })
})
