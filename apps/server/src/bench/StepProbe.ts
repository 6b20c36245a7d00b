import { Executor, greedy, type SamplingParameters } from "@uniprefill/executor/contract/Executor"
import { randomKeep } from "@uniprefill/executor/simulated/KeepModel"
import { SimulatedDevice } from "@uniprefill/executor/simulated/SimulatedDevice"
import { type DropSchedule, pToQ32 } from "@uniprefill/model/DropSchedule"
import { StepLoad, windowsOf } from "@uniprefill/scheduler/StepLoad"
import { StateOperation, StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Effect } from "effect"

/** A step that was carried out. */
export interface ProbedStep {
  /** Its work, as the cost model counts it. */
  readonly load: StepLoad
  readonly deviceMicros: number
  /** From handing it over to its answer, or from the answer before where two were under way. */
  readonly wallMicros: number
}

/** A slot's slabs, table by table. */
interface Slot {
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
  private readonly plan = new StepPlan()
  private readonly last: number
  private contents = 0
  /** Steps not answered yet, oldest first: their work, and when they were handed over. */
  private readonly underWay: Array<{ readonly load: StepLoad; readonly sentMs: number }> = []
  private answeredMs = 0

  constructor(executor: Executor["Service"], schedule: DropSchedule, vocabSize: number) {
    const { layout, slabs, slots } = executor.info
    this.executor = executor
    this.schedule = schedule
    this.vocabSize = vocabSize
    this.device = new SimulatedDevice(layout, schedule, slots, randomKeep(1, [0.5]))
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

  /** Slabs that a prompt takes: of every segment where it does not drop, of the first one and its carry where it does. */
  slabsOf(rows: number, drops: boolean): number {
    const { tables } = this.executor.info.layout
    const own = tables.filter(({ segment, kind }) => (drops ? segment === 0 : kind !== "carry"))
    return own.reduce((sum, { slabsPerPage }) => sum + this.pagesOf(rows) * slabsPerPage, 0)
  }

  /** Opens a slot for a prompt of random tokens. One that drops has its scores computed. */
  open(number: number, length: number, drops: boolean, sampling: Partial<SamplingParameters> = {}) {
    const { layout } = this.executor.info
    const id = ++this.contents
    const tokens = Int32Array.from(
      { length },
      (_, i) => ((Math.imul(i, 0x9e37_79b1) + 12_345 * id) >>> 0) % this.vocabSize,
    )
    this.slots.set(number, { drops, tables: layout.tables.map(() => []) })
    this.plan.opens.push2(number, id)
    if (layout.stateSlotBytes > 0) this.plan.states.push3(number, StateOperation.zero, number)
    const counted = { key: id, promptLength: length, outputs: 0, drops, bitmaps: [], stopAt: 0x7fff_ffff }
    this.device.putContent(id, counted)
    return this.executor.putContent(id, {
      tokens,
      promptLength: length,
      pQ32: drops ? this.schedule.dropLayers.map(({ p }) => pToQ32(p)) : null,
      bitmaps: [],
      sampling: { ...greedy, ...sampling },
      returnLogits: false,
      promptLogprobs: -1,
    })
  }

  /** Rows of a prompt: through all layers where it does not drop, else through the first segment, with its selection at the last row. */
  item(number: number, first: number, rows: number): void {
    const { drops } = this.slots.get(number)!
    const { tables } = this.executor.info.layout
    for (const [t, { segment, kind }] of tables.entries()) {
      if (drops ? segment === 0 : kind !== "carry") this.reach(number, t, first + rows)
    }
    this.plan.items.push3(number, first, rows)
    this.plan.items.push2(0, drops ? 0 : this.last)
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
      for (const slabs of this.slots.get(number)!.tables) this.free.push(...slabs)
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

  /** Hands the plan over; begins another one. */
  readonly send = Effect.gen({ self: this }, function* () {
    const { plan, device } = this
    device.release(device.prepare(plan))
    const load = new StepLoad(device.load.rows.length, windowsOf(this.executor.info.layout))
    load.assign(device.load)
    this.underWay.push({ load, sentMs: performance.now() })
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
    return { load, deviceMicros, wallMicros } satisfies ProbedStep
  })

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
