/**
 * Faults of the method's first implementation, each as a behaviour to have right, and each planted here to see that its
 * test would find it. Numbers follow docs/decisions/select-then-attend.md.
 */
import { ReferenceCompute } from "@uniprefill/executor/reference/ReferenceCompute"
import { fromRunner } from "@uniprefill/executor/reference/ReferenceExecutor"
import { referenceForward } from "@uniprefill/executor/reference/ReferenceForward"
import { makeReferenceModel, referenceSpec, type ReferenceModel } from "@uniprefill/executor/reference/ReferenceModel"
import { ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import { denseSchedule, pToQ32, type DropSchedule } from "@uniprefill/model/DropSchedule"
import { Driver } from "@uniprefill/scheduler/Driver"
import { Memory } from "@uniprefill/scheduler/Memory"
import type { PageRun } from "@uniprefill/scheduler/PrefixTree"
import { PrefixCache } from "@uniprefill/scheduler/PrefixCache"
import type { Request, Submission } from "@uniprefill/scheduler/Request"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { afterEach, describe, expect, it, vi } from "vitest"
import { type LoopAnswer, type LoopRequest, serve } from "./LoopServer.ts"
import { promptOf } from "./Prompts.ts"

const model = makeReferenceModel(referenceSpec({ layers: ["full", "full", "full", "full"], vocab: 64 }), 11)
const schedule: DropSchedule = {
  ...denseSchedule,
  dropLayers: [
    { layer: 0, p: 0.6 },
    { layer: 2, p: 0.6 },
  ],
  block: 16,
  sink: 16,
  lastQ: 32,
  minPromptTokens: 200,
}
const p = [pToQ32(0.6), pToQ32(0.6)]
const long: LoopRequest = { prompt: promptOf(420, 64, 5), maxTokens: 4, pQ32: p }
const short: LoopRequest = { prompt: promptOf(40, 64, 6), maxTokens: 40, pQ32: p }

const run = async (
  requests: ReadonlyArray<LoopRequest>,
  over: Parameters<typeof serve>[3] = {},
  at: DropSchedule = schedule,
  of: ReferenceModel = model,
): Promise<ReadonlyArray<LoopAnswer>> =>
  (
    await serve(
      fromRunner(new ReferenceRunner({ model: of, schedule: at, slabs: 4000, maxTokens: 1024 })),
      at,
      requests,
      over,
    )
  ).answers

/** The members of ReferenceCompute that faults are planted in. */
interface Inside {
  item: (
    this: unknown,
    slot: { content: { pQ32: unknown } },
    item: { firstRow: number; firstSegment: number },
  ) => unknown
  decodeRow: (this: unknown, slot: unknown) => unknown
  kvAddress: (this: unknown, slot: unknown, home: { segment: number }, row: number) => [number, number]
  score: (this: unknown, slot: { keptRows: (segment: number) => number }, segment: number) => Array<bigint> | null
  readCarry: (this: unknown, slot: unknown, segment: unknown, row: number) => Float64Array
  queryOf: (this: unknown, layer: number, row: Float64Array, position: number) => Float64Array
}
const inside = ReferenceCompute.prototype as unknown as Inside

/** Where memory gives back the pages that a window has left. */
/** What the prefix pages keep to themselves. */
interface Prefixes {
  ofDropping: { readonly root: PageRun }
  readonly ofDense: { readonly root: PageRun }
  find(request: Request): number
}

interface Windows {
  slide(this: unknown, request: Request, table: number, nextRow: number, plan: StepPlan): void
}

/** Where the driver makes a request, with its decision whether that drops. */
interface Gate {
  readonly config: { readonly schedule: DropSchedule }
  readonly scheduler: { readonly state: { readonly requests: ReadonlyMap<number, Request> } }
  make(submission: Submission, maxTokens: number, nowMicros: number): Request
}

/** The nearest number with 8 significant bits. */
const toBfloat16 = (value: number): number => {
  const unit = 2 ** Math.max(0, Math.floor(Math.log2(value)) - 7)
  return Math.round(value / unit) * unit
}

afterEach(() => {
  vi.restoreAllMocks()
})

describe("fault 1: a short request that decodes while a long prompt selects keeps its own upper layers", () => {
  const check = async () => {
    const [alone] = await run([short])
    const beside = await run([short, { ...long, at: 3 }], { stepBudgetMicros: 200 })
    expect(beside[0]!.tokens).toEqual(alone!.tokens)
    expect(beside[0]!.logits).toEqual(alone!.logits)
    expect(beside[1]!.kept[1]).toBeLessThan(420)
  }
  it("holds", () => expect(check()).resolves.toBeUndefined())
  it("is found when decode rows beside a prompt are written at length 1", async () => {
    const { item, decodeRow, kvAddress } = inside
    let beside = false
    let decoding = false
    vi.spyOn(inside, "item").mockImplementation(function (this: unknown, slot, piece) {
      beside ||= slot.content.pQ32 !== null
      return item.call(this, slot, piece)
    })
    vi.spyOn(inside, "decodeRow").mockImplementation(function (this: unknown, slot) {
      decoding = true
      const row = decodeRow.call(this, slot)
      decoding = false
      return row
    })
    vi.spyOn(inside, "kvAddress").mockImplementation(function (this: unknown, slot, home, row) {
      return kvAddress.call(this, slot, home, beside && decoding && home.segment > 0 ? 0 : row)
    })
    await expect(check()).rejects.toThrow(/expected/)
  })
})

describe("fault 2: a later chunk leaves the earlier chunks' rows after a drop layer alone", () => {
  const chunks = { stepBudgetMicros: 70, idleStepBudgetMicros: 70 }
  const check = async () => {
    const [whole] = await run([long])
    const [cut] = await run([long], chunks)
    expect(cut!.kept).toEqual(whole!.kept)
    expect(cut!.logits).toEqual(whole!.logits)
  }
  it("holds", () => expect(check()).resolves.toBeUndefined())
  it("is found when chunks of later segments are written from row 0 on", async () => {
    const { item, kvAddress } = inside
    let shift = 0
    vi.spyOn(inside, "item").mockImplementation(function (this: unknown, slot, piece) {
      shift = piece.firstSegment > 0 ? piece.firstRow : 0
      const result = item.call(this, slot, piece)
      shift = 0
      return result
    })
    vi.spyOn(inside, "kvAddress").mockImplementation(function (this: unknown, slot, home, row) {
      return kvAddress.call(this, slot, home, home.segment > 0 && row >= shift ? row - shift : row)
    })
    await expect(check()).rejects.toThrow(/expected|finite/)
  })
})

describe("fault 3: pages found in the cache hold what their keys say, and nobody writes over them", () => {
  const prompts = [1, 2].map((seed) => promptOf(420, 64, seed, 400))
  const of = (prompt: Int32Array, at: number, pQ32: LoopRequest["pQ32"] = p): LoopRequest => ({
    prompt,
    maxTokens: 30,
    pQ32,
    cached: true,
    at,
  })
  const same = (answer: LoopAnswer, alone: LoopAnswer) => {
    expect(answer.kept).toEqual(alone.kept)
    expect(answer.tokens).toEqual(alone.tokens)
    expect(answer.logits).toEqual(alone.logits)
  }
  const check = async () => {
    const [first, second, dense] = await Promise.all([
      run([of(prompts[0]!, 0)]),
      run([of(prompts[1]!, 0)]),
      run([of(prompts[1]!, 0, null)]),
    ])
    // The second and third come while the first, whose pages they find, decodes.
    const { answers, driver } = await serve(
      fromRunner(new ReferenceRunner({ model, schedule, slabs: 4000, maxTokens: 1024 })),
      schedule,
      [
        of(prompts[0]!, 0),
        of(prompts[1]!, 8),
        of(prompts[1]!, 12, null),
        of(prompts[0]!, 14, null),
        of(prompts[1]!, 20),
      ],
      { stepBudgetMicros: 200, idleStepBudgetMicros: 200 },
    )
    same(answers[0]!, first[0]!)
    same(answers[1]!, second[0]!)
    same(answers[2]!, dense[0]!)
    same(answers[4]!, second[0]!)
    expect(answers[1]!.kept[1]).toBeLessThan(400)
    expect(driver.scheduler.memory.prefixHits).toBeGreaterThan(3 * 256)
  }
  it("holds", () => expect(check()).resolves.toBeUndefined())

  it("is found when pages of requests that drop go by the keys of whole ones", async () => {
    const pages = PrefixCache.prototype as unknown as Prefixes
    // oxlint-disable-next-line typescript/unbound-method -- called with its own `this` below
    const { find } = pages
    vi.spyOn(pages, "find").mockImplementation(function (this: Prefixes, request) {
      const own = this.ofDropping
      this.ofDropping = { ...own, root: this.ofDense.root }
      const found = find.call(this, request)
      this.ofDropping = own
      return found
    })
    await expect(check()).rejects.toThrow(/maps \d+ rows for slot \d+, which has 420$/)
  })

  it("is found when a page that is not full is shared, and so written by two", async () => {
    // oxlint-disable-next-line typescript/unbound-method -- called with its own `this` below
    const { publish } = Memory.prototype
    vi.spyOn(Memory.prototype, "publish").mockImplementation(function (this: Memory, request, rows) {
      const pageSize = 128
      publish.call(this, request, Math.ceil(rows / pageSize) * pageSize)
    })
    await expect(check()).rejects.toThrow("a page is published once it is held")
  })
})

describe("fault 5: a sliding window's pages are freed by the rows that are kept", () => {
  const layers = ["full", "full", "sliding", "sliding", "full"] as const
  const spec = referenceSpec({ layers, window: 96, vocab: 64 })
  const windowed = makeReferenceModel(spec, 17)
  const at: DropSchedule = { ...schedule, dropLayers: [{ layer: 1, p: 0.5 }] }
  const half = [pToQ32(0.5)]
  const requests = [3, 4, 5].map((seed): LoopRequest => ({
    prompt: promptOf(600, 64, seed),
    maxTokens: 150,
    pQ32: half,
    at: seed,
  }))
  const serveAll = async (all: ReadonlyArray<LoopRequest>) => {
    const runner = new ReferenceRunner({ model: windowed, schedule: at, pageSize: 64, slabs: 400, maxTokens: 1024 })
    const budget = { stepBudgetMicros: 140, idleStepBudgetMicros: 140 }
    return (await serve(fromRunner(runner), at, all, budget)).answers
  }
  const check = async () => {
    const together = await serveAll(requests)
    for (const [i, request] of requests.entries()) {
      const [alone] = await serveAll([{ ...request, at: 0 }])
      expect(together[i]!.tokens).toEqual(alone!.tokens)
      expect(together[i]!.logits).toEqual(alone!.logits)
      const forward = referenceForward(windowed, {
        tokens: [...Array.from(request.prompt), ...alone!.tokens.slice(0, -1)],
        promptLength: 600,
        schedule: at,
        pQ32: half,
      })
      expect(together[i]!.kept[1]).toBe(forward.kept[1]!.length)
      expect(together[i]!.kept[1]).toBeLessThan(600)
      expect(together[i]!.logits).toEqual(forward.logits.map((row) => new Int32Array(Float32Array.from(row).buffer)))
    }
  }
  it("holds", () => expect(check()).resolves.toBeUndefined())

  it("is found when they are freed by original position", async () => {
    const memory = Memory.prototype as unknown as Windows
    // oxlint-disable-next-line typescript/unbound-method -- called with its own `this` below
    const { slide } = memory
    let early = 0
    vi.spyOn(memory, "slide").mockImplementation(function (this: unknown, request, table, nextRow, plan) {
      const dropped = request.promptLength - request.progress.rowsOf(1)
      if (request.progress.segment === 0 || dropped === 0) return slide.call(this, request, table, nextRow, plan)
      early++
      // No more than the table holds: what is freed is still read, not missing.
      const held = request.holdings.tables[table]!.length
      slide.call(this, request, table, held > 0 ? Math.min(nextRow + dropped, nextRow + 64) : nextRow, plan)
    })
    await expect(check()).rejects.toThrow(/\(sliding\): row \d+ is in page \d+, \d+ were given back/)
    expect(early).toBeGreaterThan(0)
  })
})

describe("fault 6: prompts shorter than the scoring queries", () => {
  const wide: DropSchedule = { ...schedule, lastQ: 128, sink: 0, minPromptTokens: 1 }
  const check = async () => {
    for (const length of [1, 2, 15, 16, 17, 127, 128, 129, 160]) {
      const prompt = promptOf(length, 64, length)
      const [answer] = await run([{ prompt, maxTokens: 3, pQ32: p }], {}, wide)
      expect(answer!.reason).toBe("length")
      expect(answer!.fallbacks).toBe(0)
      if (length <= 128) expect(answer!.kept).toEqual([length, length, length])
      const forward = referenceForward(model, {
        tokens: [...prompt, ...answer!.tokens.slice(0, -1)],
        promptLength: length,
        schedule: wide,
        pQ32: p,
      })
      expect(answer!.bitmaps).toEqual(forward.bitmaps)
      for (const row of answer!.logits) {
        expect(new Float32Array(row.buffer, row.byteOffset, row.length).every(Number.isFinite)).toBe(true)
      }
    }
  }
  it("holds", () => expect(check()).resolves.toBeUndefined())
  it("is found when queries are read from before the first row", async () => {
    const { score, readCarry } = inside
    let early = 0
    vi.spyOn(inside, "score").mockImplementation(function (this: unknown, slot, segment) {
      early = Math.max(0, wide.lastQ - slot.keptRows(segment))
      const masses = score.call(this, slot, segment)
      early = 0
      return masses
    })
    // The queries are rows − 128 … whatever the number of rows; memory that nobody wrote is NaN.
    vi.spyOn(inside, "readCarry").mockImplementation(function (this: unknown, slot, segment, row) {
      const carry = readCarry.call(this, slot, segment, Math.max(0, row - early))
      return row < early ? carry.fill(NaN) : carry
    })
    await expect(check()).rejects.toThrow(/^expected 2 to be \+0/)
  })
})

describe("fault 9: the model's own scale, exact masses, and a gate on the request's own prompt", () => {
  const scaled = makeReferenceModel(
    referenceSpec({ layers: ["full", "full", "full", "full"], attentionScale: 0.9 }),
    12,
  )
  const checkScale = async () => {
    const [answer] = await run([long], {}, schedule, scaled)
    const tokens = [...Array.from(long.prompt), ...answer!.tokens.slice(0, -1)]
    const forward = referenceForward(scaled, { tokens, promptLength: 420, schedule, pQ32: p })
    expect(answer!.bitmaps).toEqual(forward.bitmaps)
  }
  it("scores with the model's scale", () => expect(checkScale()).resolves.toBeUndefined())
  it("is found when selection assumes 1 / √d", async () => {
    const { queryOf } = inside
    vi.spyOn(inside, "queryOf").mockImplementation(function (this: unknown, layer, row, position) {
      return queryOf.call(this, layer, row, position).map((x) => (x / 0.9) * 8 ** -0.5)
    })
    await expect(checkScale()).rejects.toThrow(/expected/)
  })

  // Prompts and blocks for which two masses at the edge of the kept set differ by less than such a rounding.
  const fine: DropSchedule = { ...schedule, block: 4 }
  const checkMasses = async () => {
    for (const seed of [2, 10]) {
      const prompt = promptOf(420, 64, seed)
      const [answer] = await run([{ ...long, prompt }], {}, fine)
      const tokens = [...prompt, ...answer!.tokens.slice(0, -1)]
      const forward = referenceForward(model, { tokens, promptLength: 420, schedule: fine, pQ32: p })
      expect(answer!.bitmaps).toEqual(forward.bitmaps)
    }
  }
  it("adds masses up exactly", () => expect(checkMasses()).resolves.toBeUndefined())
  it("is found when masses are rounded to bfloat16", async () => {
    const { score } = inside
    vi.spyOn(inside, "score").mockImplementation(function (this: unknown, slot, segment) {
      return score.call(this, slot, segment)!.map((mass) => BigInt(toBfloat16(Number(mass))))
    })
    await expect(checkMasses()).rejects.toThrow(/^expected \[ .* to deeply equal/)
  })

  const checkGate = async () => {
    const pair = [1, 2].map((seed): LoopRequest => ({ prompt: promptOf(150, 64, seed), maxTokens: 2, pQ32: p }))
    for (const answer of await run(pair)) expect(answer.kept).toEqual([150])
  }
  it("does not add up the prompts of a batch", () => expect(checkGate()).resolves.toBeUndefined())
  it("is found when 300 tokens in a batch open the gate of 200", async () => {
    const gate = Driver.prototype as unknown as Gate
    // oxlint-disable-next-line typescript/unbound-method -- called with its own `this` below
    const { make } = gate
    vi.spyOn(gate, "make").mockImplementation(function (this: Gate, submission, maxTokens, now) {
      let tokens = submission.promptLength
      for (const request of this.scheduler.state.requests.values()) tokens += request.promptLength
      const { schedule: own } = this.config
      const minPromptTokens = tokens >= own.minPromptTokens ? 0 : own.minPromptTokens
      const config = { ...this.config, schedule: { ...own, minPromptTokens } }
      return make.call({ ...this, scheduler: this.scheduler, config }, submission, maxTokens, now)
    })
    await expect(checkGate()).rejects.toThrow(/^expected \[ 150, .* to deeply equal \[ 150 \]/)
  })
})
