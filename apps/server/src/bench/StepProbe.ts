import { Executor, greedy, type SamplingParameters } from "@uniprefill/executor/contract/Executor"
import { type KeepModel, randomKeep } from "@uniprefill/executor/simulated/KeepModel"
import { SimulatedDevice } from "@uniprefill/executor/simulated/SimulatedDevice"
import { type DropSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { StepLoad, windowsOf } from "@uniprefill/scheduler/StepLoad"
import { StateOperation, StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { Effect } from "effect"

/** A step that was carried out. */
export interface ProbedStep {
  /** Its work, as the cost model counts it. */
  readonly load: StepLoad
  readonly deviceMicros: number
  /** From handing it over to its answer, or from the answer before where two were under way. */
  readonly wallMicros: number
}

/** What a prompt's rows pass in their step. */
export type Pass = "dense" | "first segment" | "all segments"

export interface OpenOptions {
  readonly sampling?: Partial<SamplingParameters>
  /** Of the schedule's own p: what selections keep of mass. */
  readonly shareOfP?: number
}

/** A slot's slabs, table by table. */
interface Slot {
  readonly content: number
  readonly drops: boolean
  readonly tables: ReadonlyArray<Array<number>>
}

/**
 * An executor driven step by step, without a scheduler: what one step of a given content takes. What is put into the plan goes out with the
 * next `run`. Nothing of it is checked here; the executor does.
 */
export class StepProbe {
  readonly executor: Executor["Service"]
  private readonly schedule: DropSchedule
  private readonly vocabSize: number
  private readonly device: SimulatedDevice
  private readonly free: Array<number> = []
  private readonly slots = new Map<number, Slot>()
  /** Bitmaps that the executor has chosen, by content. */
  private readonly chosen = new Map<number, Array<Uint32Array>>()
  private readonly plan = new StepPlan()
  private readonly last: number
  private contents = 0
  /** Steps not answered yet, oldest first: their work, and when they were handed over. */
  private readonly underWay: Array<{ readonly load: StepLoad; readonly sentMs: number }> = []
  private answeredMs = 0
  /** Time of all steps so far. */
  deviceMicros = 0

  constructor(executor: Executor["Service"], schedule: DropSchedule, vocabSize: number) {
    const { layout, slabs, slots } = executor.info
    this.executor = executor
    this.schedule = schedule
    this.vocabSize = vocabSize
    const unknown = randomKeep(1, [0.5])
    const keep: KeepModel = {
      select: (key, tokens, segment, shape) =>
        this.chosen.get(key)?.[segment] ?? unknown.select(key, tokens, segment, shape),
    }
    this.device = new SimulatedDevice(layout, schedule, slots, keep)
    this.last = layout.segments.length - 1
    for (let slab = slabs - 1; slab >= 0; slab--) this.free.push(slab)
    this.plan.clear(1)
  }

  /** Pages of a table that a prompt of so many rows fills. */
  pagesOf(rows: number): number {
    return Math.ceil(rows / this.executor.info.layout.pageSize)
  }

  get freeSlabs(): number {
    return this.free.length
  }

  /** Slabs that a prompt takes: of every segment that it passes, and its carries where it drops. */
  slabsOf(rows: number, pass: Pass): number {
    return this.tablesOf(pass).reduce((sum, { slabsPerPage }) => sum + this.pagesOf(rows) * slabsPerPage, 0)
  }

  private tablesOf(pass: Pass) {
    const { tables } = this.executor.info.layout
    return tables.filter(
      ({ segment, kind }) => pass === "all segments" || (pass === "dense" ? kind !== "carry" : segment === 0),
    )
  }

  /** Opens a slot for a prompt of random tokens. One that drops has its scores computed. */
  open(number: number, length: number, drops: boolean, { sampling = {}, shareOfP = 1 }: OpenOptions = {}) {
    const { layout } = this.executor.info
    const id = ++this.contents
    const tokens = Int32Array.from(
      { length },
      (_, i) => ((Math.imul(i, 0x9e37_79b1) + 12_345 * id) >>> 0) % this.vocabSize,
    )
    this.slots.set(number, { content: id, drops, tables: layout.tables.map(() => []) })
    this.plan.opens.push2(number, id)
    if (layout.stateSlotBytes > 0) this.plan.states.push3(number, StateOperation.zero, number)
    const counted = { key: id, promptLength: length, outputs: 0, drops, bitmaps: [], stopAt: 0x7fff_ffff }
    this.device.putContent(id, counted)
    return this.executor.putContent(id, {
      tokens,
      promptLength: length,
      pQ32: drops ? this.schedule.dropLayers.map(({ p }) => pToQ32(shareOfP * p)) : null,
      bitmaps: [],
      sampling: { ...greedy, ...sampling },
      returnLogits: false,
      promptLogprobs: -1,
    })
  }

  /**
   * Rows of a prompt: through all layers where it does not drop, else through the first segment, with its selection at the last row; `through`
   * that and all that follows. Room is granted as if every row were kept.
   */
  item(number: number, first: number, rows: number, through = false): void {
    const { drops } = this.slots.get(number)!
    const pass = !drops ? "dense" : through ? "all segments" : "first segment"
    const { tables } = this.executor.info.layout
    for (const table of this.tablesOf(pass)) this.reach(number, tables.indexOf(table), first + rows)
    this.plan.items.push3(number, first, rows)
    this.plan.items.push2(0, pass === "first segment" ? 0 : this.last)
  }

  /** Samples the first token from the last row of the item put last. */
  sample(number: number): void {
    this.plan.samples.push2(this.plan.itemCount - 1, number)
  }

  join(number: number): void {
    this.plan.joins.push2(number, -1)
  }

  /** Has every table of a slot that does not drop hold so many rows. */
  reachAll(number: number, rows: number): void {
    for (const [t, { kind }] of this.executor.info.layout.tables.entries()) {
      if (kind !== "carry") this.reach(number, t, rows)
    }
  }

  /** Copies every slab of one slot to another, which gets as many. Both hold nothing else. */
  copy(from: number, to: number): number {
    const target = this.slots.get(to)!
    let slabs = 0
    for (const [t, own] of this.slots.get(from)!.tables.entries()) {
      for (const slab of own) {
        const granted = this.take()
        this.plan.grants.push3(to, t, granted)
        this.plan.copies.push2(slab, granted)
        target.tables[t]!.push(granted)
        slabs++
      }
    }
    return slabs
  }

  /** Ends slots; with `decoding` they leave the decode set first. */
  close(numbers: ReadonlyArray<number>, decoding = false): void {
    for (const number of numbers) {
      if (decoding) this.plan.leaves.push(number)
      this.plan.closes.push(number)
      const { content, tables } = this.slots.get(number)!
      for (const slabs of tables) this.free.push(...slabs)
      this.chosen.delete(content)
      this.slots.delete(number)
    }
  }

  /** Carries the plan out, and everything that is under way. */
  readonly run = Effect.gen({ self: this }, function* () {
    yield* this.send
    let step = yield* this.answer
    while (this.underWay.length > 0) step = yield* this.answer
    return step
  })

  /** The same of a plan whose selections decide what follows in its step. Requires that nothing is under way. */
  readonly runThrough = Effect.gen({ self: this }, function* () {
    const { plan } = this
    const sentMs = performance.now()
    yield* this.executor.enqueue(plan)
    const result = yield* this.executor.nextResult
    const wallMicros = 1000 * (performance.now() - sentMs)
    this.learn(result)
    this.deviceMicros += result.deviceMicros
    const load = this.loadOf(plan)
    plan.clear(plan.stepId + 1)
    return { load, deviceMicros: result.deviceMicros, wallMicros } satisfies ProbedStep
  })

  /** Hands the plan over; begins another one. */
  readonly send = Effect.gen({ self: this }, function* () {
    const { plan } = this
    this.underWay.push({ load: this.loadOf(plan), sentMs: performance.now() })
    yield* this.executor.enqueue(plan)
    plan.clear(plan.stepId + 1)
  })

  /** Waits for the oldest step that was handed over. */
  readonly answer = Effect.gen({ self: this }, function* () {
    const { deviceMicros } = yield* this.executor.nextResult
    const { load, sentMs } = this.underWay.shift()!
    const now = performance.now()
    const wallMicros = 1000 * (now - Math.max(sentMs, this.answeredMs))
    this.answeredMs = now
    this.deviceMicros += deviceMicros
    return { load, deviceMicros, wallMicros } satisfies ProbedStep
  })

  private loadOf(plan: StepPlan): StepLoad {
    const { device } = this
    device.release(device.prepare(plan))
    const load = new StepLoad(device.load.rows.length, windowsOf(this.executor.info.layout))
    load.assign(device.load)
    return load
  }

  private learn({ selections: { data, length } }: StepResult): void {
    for (let at = 0; at < length; at += 4 + data[at + 3]!) {
      const { content } = this.slots.get(data[at]!)!
      const bitmaps = this.chosen.get(content) ?? []
      bitmaps[data[at + 1]!] = Uint32Array.from(data.subarray(at + 4, at + 4 + data[at + 3]!))
      this.chosen.set(content, bitmaps)
    }
  }

  private reach(number: number, table: number, rows: number): void {
    const { slabsPerPage } = this.executor.info.layout.tables[table]!
    const own = this.slots.get(number)!.tables[table]!
    while (own.length < this.pagesOf(rows) * slabsPerPage) {
      const slab = this.take()
      this.plan.grants.push3(number, table, slab)
      own.push(slab)
    }
  }

  private take(): number {
    const slab = this.free.pop()
    if (slab === undefined) throw new Error("no slab is free")
    return slab
  }
}
