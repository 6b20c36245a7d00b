import { pagesFor } from "@uniprefill/units/Units"
import { fc, test } from "@fast-check/vitest"
import { randomKeep } from "@uniprefill/executor/simulated/KeepModel"
import { StepLoad } from "@uniprefill/scheduler/StepLoad"
import { sectionWidths, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { describe, expect, it } from "vitest"
import { deepSchedule, deepSpec, hybridSchedule, hybridSpec } from "./Models.ts"
import { testCosts, VirtualServer } from "./VirtualServer.ts"

const slabsOfRows = (server: VirtualServer, rows: ReadonlyArray<number>): number =>
  server.layout.tables.reduce(
    (sum, table) =>
      sum + (table.kind === "full" ? pagesFor(rows[table.segment]!, server.layout.pageSize) * table.slabsPerPage : 0),
    0,
  )

describe("a request's memory", () => {
  it("is, after the last selection, exactly the pages of its kept rows", () => {
    const server = new VirtualServer({ spec: deepSpec, schedule: deepSchedule })
    const request = server.submit({ promptLength: 8192, drops: true, maxTokens: 200 })
    while (request.outputs === 0) expect(server.step()).toBe(true)
    expect(request.keptRows).toHaveLength(4)
    expect(request.keptRows[3]).toBeLessThan(8192 / 2)
    expect(server.driver.scheduler.memory.ownedSlabs(request)).toBe(slabsOfRows(server, request.keptRows))
    expect(server.driver.scheduler.memory.pool.used).toBe(server.driver.scheduler.memory.ownedSlabs(request))
    const dense = slabsOfRows(server, [8192, 8192, 8192, 8192])
    expect(server.driver.scheduler.memory.ownedSlabs(request)).toBeLessThan(dense * 0.8)
    while (request.outputs < 100) server.step()
    expect(server.driver.scheduler.memory.ownedSlabs(request)).toBe(
      slabsOfRows(
        server,
        request.keptRows.map((rows) => rows + 99),
      ),
    )
    server.drain()
    expect(server.ended.get(request.id)).toBe("length")
  })

  it("is given back in every state it can be aborted in", () => {
    for (const steps of [0, 1, 2, 5, 9, 12]) {
      for (const inFlight of [false, true]) {
        const server = new VirtualServer({
          spec: deepSpec,
          schedule: deepSchedule,
          config: { idleStepBudgetMicros: 100_000 },
        })
        const request = server.submit({ promptLength: 8192, drops: true, maxTokens: 1000 })
        for (let i = 0; i < steps; i++) server.step()
        if (inFlight) server.step(() => server.abort(request.id))
        else server.abort(request.id)
        expect(server.ended.get(request.id)).toBe("abort")
        server.drain(1)
      }
    }
  })
})

/**
 * The prefill in a plan for one prompt that drops, counted row by row. `kept`: rows of its sets known so far; those to
 * come are expected to be as large as the last.
 */
const loadOf = (plan: StepPlan, kept: ReadonlyArray<number>, segments: number): StepLoad => {
  const load = new StepLoad(segments)
  const width = sectionWidths.items
  for (let at = 0; at < plan.items.length; at += width) {
    const [, firstRow, itemRows, first, last] = plan.items.toArray().slice(at, at + width) as Record5
    load.items++
    for (let segment = first; segment <= last; segment++) {
      const rowsOf = (s: number) => kept[Math.min(s, kept.length - 1)]!
      const start = segment === first ? firstRow : 0
      const end = segment === first ? firstRow + itemRows : rowsOf(segment)
      let pairs = 0
      for (let row = start; row < end; row++) pairs += row + 1
      load.rows[segment]! += end - start
      load.pairs[segment]! += pairs
      // At the entry layer the rows see the keys of the set before, of which theirs are an even share.
      if (segment > 0) load.entryPairs[segment]! += Math.floor((pairs * rowsOf(segment - 1)) / rowsOf(segment))
      if (end === rowsOf(segment) && segment < segments - 1) load.addSelection(1, segment, end)
    }
  }
  return load
}
type Record5 = [slot: number, firstRow: number, rows: number, firstSegment: number, lastSegment: number]

describe("co-processing", () => {
  /** Four requests decode; an 8K prompt arrives. Returns the predicted cost of every step until its first token. */
  const costsBeside = (stepBudgetMicros: number): Array<number> => {
    const server = new VirtualServer({ spec: deepSpec, schedule: deepSchedule, config: { stepBudgetMicros } })
    for (let i = 0; i < 4; i++) server.submit({ promptLength: 100, drops: true, maxTokens: 5000 })
    for (let i = 0; i < 3; i++) server.step()
    const long = server.submit({ promptLength: 8192, drops: true, maxTokens: 2 })
    const real = testCosts(deepSpec, server.layout, deepSchedule.lastQ)
    const costs: Array<number> = []
    server.inspect = (plan, micros) => {
      const load = loadOf(plan, long.keptRows, 4)
      // The row of the newest output sees the prompt, the outputs before it and itself, in every segment.
      const decoding = [...server.outputs.values()]
      load.decodeRows = decoding.length
      load.decodeKeys.fill(decoding.reduce((keys, outputs) => keys + 100 + outputs.length, 0))
      expect(decoding).toHaveLength(4)
      expect(micros).toBe(real.stepMicros(load))
      costs.push(micros)
    }
    while (!server.firstTokenAt.has(long.id)) server.step()
    expect(server.driver.scheduler.overBudgetChunks).toBe(0)
    expect(server.driver.scheduler.decoding.length).toBeGreaterThanOrEqual(4)
    return costs
  }

  it("keeps every step within its budget while an 8K prompt prefills beside decodes", () => {
    const costs = costsBeside(50_000)
    expect(costs.length).toBeGreaterThan(5)
    expect(Math.max(...costs)).toBeLessThanOrEqual(50_000)
  })

  it("would not without chunks: the same prompt in one step stalls the decodes", () => {
    expect(Math.max(...costsBeside(Number.MAX_SAFE_INTEGER))).toBeGreaterThan(50_000 * 10)
  })

  it("gives a starved prompt one smallest chunk beyond the budget", () => {
    const server = new VirtualServer({
      spec: deepSpec,
      schedule: deepSchedule,
      config: { stepBudgetMicros: 1, maxPrefillWaitMicros: 20_000 },
    })
    server.submit({ promptLength: 64, drops: true, maxTokens: 5000 })
    server.step()
    const prompt = server.submit({ promptLength: 640, drops: true, maxTokens: 1 })
    while (!server.ended.has(prompt.id)) server.step()
    expect(server.driver.scheduler.overBudgetChunks).toBe(10)
  })

  it("computes a short prompt in one step, selections and first token included", () => {
    const server = new VirtualServer({ spec: deepSpec, schedule: deepSchedule })
    const request = server.submit({ promptLength: 1100, drops: true, maxTokens: 1 })
    server.step()
    expect(request.keptRows).toHaveLength(4)
    expect(server.ended.get(request.id)).toBe("length")
    server.drain(1)
  })
})

describe("admission", () => {
  it.each([2, 8])("takes the next prompt as soon as a slot is free (%i slots)", (slots) => {
    const server = new VirtualServer({ spec: deepSpec, schedule: deepSchedule, config: { slots } })
    const outputs = [3000, 600, ...Array.from({ length: slots - 2 }, () => 2000), 10, 10, 10]
    const requests = outputs.map((maxTokens) => server.submit({ promptLength: 200, drops: true, maxTokens }))
    let waitedFor = 0
    while (server.driver.waiting > 0) {
      server.step()
      if (server.driver.running < slots) waitedFor++
    }
    expect(waitedFor).toBeLessThanOrEqual(outputs.length)
    server.drain()
    expect(requests.map((request) => server.ended.get(request.id))).toEqual(outputs.map(() => "length"))
  })
})

describe("submission", () => {
  it("refuses what could never fit, naming both numbers", () => {
    const server = new VirtualServer({
      spec: deepSpec,
      schedule: deepSchedule,
      config: { slabs: 500, maxModelLen: 4096 },
    })
    const submit = (promptLength: number, maxTokens?: number) => server.offer({ promptLength, drops: true, maxTokens })
    expect(submit(4096)).toMatchObject({ _tag: "TooLong", detail: expect.stringMatching(/4096 tokens.*4096/) })
    expect(submit(4000, 97)).toMatchObject({ _tag: "TooLong", detail: expect.stringMatching(/4097.*4096/) })
    expect(submit(4000, 90)).toMatchObject({ _tag: "TooLong", detail: expect.stringMatching(/\d+ slabs.*500/) })
    expect(submit(0)).toMatchObject({ _tag: "TooLong" })
    expect(submit(100)._tag).toBe("Queued")
    server.drain(100_000)
  })

  it("answers a full queue with how full it is", () => {
    const server = new VirtualServer({
      spec: deepSpec,
      schedule: deepSchedule,
      config: { maxWaiting: 2, maxWaitingTokens: 1000 },
    })
    const submit = (promptLength: number) => server.offer({ promptLength, drops: true, maxTokens: 1 })
    expect(submit(900)._tag).toBe("Queued")
    expect(submit(101)).toMatchObject({ _tag: "QueueFull", detail: expect.stringMatching(/900.*1000/) })
    expect(submit(100)._tag).toBe("Queued")
    expect(submit(1)).toMatchObject({ _tag: "QueueFull", detail: expect.stringMatching(/2 requests.*2/) })
    server.drain()
  })
})

describe("failure of a step", () => {
  it("ends what had a slot, keeps what waited, and leaks nothing", () => {
    const server = new VirtualServer({ spec: deepSpec, schedule: deepSchedule, config: { slots: 2 } })
    const running = [1, 2].map(() => server.submit({ promptLength: 3000, drops: true, maxTokens: 5 }))
    const waiting = server.submit({ promptLength: 500, drops: true, maxTokens: 5 })
    server.step()
    server.failNext()
    expect(running.map((request) => server.ended.get(request.id))).toEqual(["error", "error"])
    expect(server.driver.waiting).toBe(1)
    server.drain()
    expect(server.ended.get(waiting.id)).toBe("length")
  })
})

const submissionsOf = (
  lengths: { promptLength: fc.Arbitrary<number>; maxTokens: fc.Arbitrary<number> },
  latestEnd: number,
) =>
  fc.array(
    fc.record({
      at: fc.integer({ min: 0, max: 30 }),
      ...lengths,
      drops: fc.boolean(),
      family: fc.integer({ min: 0, max: 2 }),
      shared: fc.integer({ min: 0, max: 4000 }),
      abortAfter: fc.option(fc.integer({ min: 0, max: latestEnd }), { nil: undefined }),
      abortInFlight: fc.boolean(),
      stopAt: fc.option(fc.integer({ min: 0, max: latestEnd }), { nil: undefined }),
    }),
    { minLength: 1, maxLength: 12 },
  )
const submissions = fc.oneof(
  submissionsOf(
    {
      promptLength: fc.oneof(fc.integer({ min: 1, max: 300 }), fc.integer({ min: 1000, max: 6000 })),
      maxTokens: fc.integer({ min: 1, max: 300 }),
    },
    50,
  ),
  // Long outputs in little memory: requests preempt each other.
  submissionsOf(
    {
      promptLength: fc.oneof(fc.integer({ min: 1, max: 100 }), fc.integer({ min: 1024, max: 1200 })),
      maxTokens: fc.integer({ min: 300, max: 1500 }),
    },
    3000,
  ),
)
/** Keys of a prompt whose first `shared` tokens are those of its family. */
const keysOf = (arrival: { promptLength: number; family: number; shared: number }, pageSize: number, own: number) =>
  Array.from({ length: Math.floor(arrival.promptLength / pageSize) }, (_, page) =>
    (page + 1) * pageSize <= arrival.shared ? `family ${arrival.family} page ${page}` : `request ${own} page ${page}`,
  )

const mixes = fc.record({
  arrivals: submissions,
  pageSize: fc.constantFrom(64, 128, 192),
  slots: fc.integer({ min: 1, max: 8 }),
  keep: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 1, maxLength: 3 }),
  slabFactor: fc.double({ min: 1, max: 2, noNaN: true }),
  budget: fc.constantFrom(2_000, 20_000, 200_000),
  maxStepsInFlight: fc.constantFrom(1 as const, 2 as const),
  protectAfter: fc.integer({ min: 1, max: 4 }),
  failAt: fc.option(fc.integer({ min: 0, max: 40 }), { nil: undefined }),
})
type Mix = typeof mixes extends fc.Arbitrary<infer T> ? T : never

describe.each([
  { name: "full attention", spec: deepSpec, schedule: deepSchedule },
  { name: "full, sliding and recurrent layers", spec: hybridSpec, schedule: hybridSchedule },
])("any mix of requests ($name)", ({ spec, schedule }) => {
  const serve = (run: Mix): VirtualServer => {
    const stops = new Map<number, number | undefined>()
    const make = (slabs: number) =>
      new VirtualServer({
        spec,
        schedule,
        pageSize: run.pageSize,
        keep: randomKeep(7, run.keep),
        stopAt: (key, index) => stops.get(key) === index,
        config: {
          slabs,
          slots: run.slots,
          // Room for snapshots: without one a prefix cannot be gone on from where layers are recurrent.
          stateSlots: run.slots + 20,
          maxRowsPerStep: 1024,
          stepBudgetMicros: run.budget,
          idleStepBudgetMicros: run.budget * 5,
          maxStepsInFlight: run.maxStepsInFlight,
          protectAfter: run.protectAfter,
        },
      })
    const probe = make(100_000)
    const largest = Math.max(
      ...run.arrivals.map((arrival) => probe.driver.scheduler.memory.worstCase(probe.submit(arrival))),
    )
    const server = make(Math.ceil(largest * run.slabFactor))
    const requests: Array<{ id: number; arrival: (typeof run.arrivals)[number] }> = []
    const aborts: Array<{ id: number; step: number; inFlight: boolean }> = []
    for (let step = 0; ; step++) {
      for (const arrival of run.arrivals.filter((one) => one.at === step)) {
        const { id } = server.submit({ ...arrival, pageKeys: keysOf(arrival, run.pageSize, requests.length) })
        stops.set(id, arrival.stopAt)
        requests.push({ id, arrival })
        if (arrival.abortAfter !== undefined) {
          aborts.push({ id, step: step + arrival.abortAfter, inFlight: arrival.abortInFlight })
        }
      }
      const due = aborts.filter((abort) => abort.step === step)
      for (const { id, inFlight } of due) if (!inFlight) server.abort(id)
      if (step === run.failAt) server.failNext()
      const worked = server.step(() => {
        for (const { id, inFlight } of due) if (inFlight) server.abort(id)
      })
      if (!worked) for (const { id } of due) server.abort(id)
      if (!worked && step > 30) break
      expect(step).toBeLessThan(20_000)
    }
    server.drain(1)
    for (const { id, arrival } of requests) {
      const reason = server.ended.get(id)
      const tokens = server.outputs.get(id)?.length ?? 0
      if (reason === "error") expect(run.failAt).toBeDefined()
      else if (reason === "abort") expect(arrival.abortAfter).toBeDefined()
      else if (reason === "stop") expect(tokens).toBe(arrival.stopAt! + 1)
      else {
        expect(reason).toBe("length")
        expect(tokens).toBe(arrival.maxTokens)
      }
      expect(server.outputs.get(id) ?? []).toEqual(Array.from({ length: tokens }, (_, i) => (id * 31 + i) % 1000))
    }
    return server
  }

  test.prop({ run: mixes }, { numRuns: 60 })(
    "ends every request, emits every token once and leaks nothing",
    ({ run }) => {
      serve(run)
    },
  )

  // A fixed seed: how often a random mix preempts is luck.
  it("is drawn so that some preempt and some find prefixes in the cache", () => {
    let preemptions = 0
    let prefixHits = 0
    for (const run of fc.sample(mixes, { seed: 1, numRuns: 40 })) {
      const { scheduler } = serve(run).driver
      preemptions += scheduler.preemptions
      prefixHits += scheduler.memory.prefixHits
    }
    expect(preemptions).toBeGreaterThan(5)
    expect(prefixHits).toBeGreaterThan(500)
  })
})
