import { type DropSchedule, denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { kvWidth } from "@uniprefill/model/ModelSpec"
import { StateOperation, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { SelectionFlag, StepResult, TokenFlag } from "@uniprefill/scheduler/StepResult"
import { ExecutorError, type ExecutorInfo, type SlotContent } from "./Executor.ts"
import { NaiveCompute, type SelectionMade } from "./NaiveCompute.ts"
import { logitsOf, naiveAttention, type NaiveModel } from "./NaiveModel.ts"
import { applyPlan, type Books, closeSlot, forkBooks, type PlanLimits, type Work } from "./NaivePlan.ts"
import { sample } from "./NaiveSampler.ts"
import { NaiveSlot } from "./NaiveSlot.ts"
import { SlabMemory } from "./SlabMemory.ts"
import { contentFault } from "./SlotContentFault.ts"
import { StateMemory } from "./StateMemory.ts"

export interface NaiveRunnerOptions {
  readonly model: NaiveModel
  readonly schedule?: DropSchedule
  readonly pageSize?: number
  readonly slabs?: number
  readonly stateSlots?: number
  readonly slots?: number
  readonly maxRowsPerStep?: number
  readonly maxTokens?: number
}

/** What a runner's memory looks like between steps. */
export interface NaiveMemoryUse {
  readonly free: number
  /** Slabs in page tables of open slots. */
  readonly held: number
  /** Slabs that only the prefix cache holds. */
  readonly cached: number
}

/**
 * Carries out StepPlans in plain TypeScript: a small model in double precision over real page tables and slabs, so that a
 * plan which reads a wrong page, writes another request's or forgets one gives wrong tokens or is refused.
 *
 * Synchronous; every method throws ExecutorError. A plan that is refused changes nothing.
 */
export class NaiveRunner {
  readonly info: ExecutorInfo
  private readonly model: NaiveModel
  private readonly schedule: DropSchedule
  private readonly limits: PlanLimits
  private books: Books
  private stepId = 0

  constructor(options: NaiveRunnerOptions) {
    const { model, schedule = denseSchedule, pageSize = 64, slabs = 1024, slots = 16 } = options
    const { stateSlots = 16, maxRowsPerStep = 1024, maxTokens = model.spec.maxPositions } = options
    const { spec } = model
    const layout = makeKvLayout(spec, schedule, { pageSize, kvElementBytes: 8, carryElementBytes: 8 })
    const states = layout.stateSlotBytes > 0 ? stateSlots : 0
    this.model = model
    this.schedule = schedule
    this.limits = { layout, schedule, vocab: spec.vocabSize, maxRowsPerStep, maxTokens }
    this.info = { device: "naive", layout, slabs, stateSlots: states, slots, maxRowsPerStep, maxTokens }
    this.books = {
      slots: new Map(),
      decode: [],
      memory: new SlabMemory(slabs, layout.slabBytes / 8),
      states: new StateMemory(states, spec.layers.length, kvWidth(naiveAttention(spec)), layout.segments.length),
    }
  }

  /** Gives a slot its content. Throws `InvalidArgument`. */
  openSlot(content: SlotContent): void {
    const fault = this.books.slots.has(content.slot)
      ? `slot ${content.slot} is open`
      : contentFault(content, this.info, this.model.spec.vocabSize, this.schedule)
    if (fault !== null) {
      throw new ExecutorError({ reason: "InvalidArgument", operation: `open slot ${content.slot}`, detail: fault })
    }
    const { tables, segments } = this.info.layout
    const own = { ...content, tokens: content.tokens.slice(), bitmaps: content.bitmaps.map((bitmap) => bitmap.slice()) }
    this.books.slots.set(content.slot, new NaiveSlot(own, tables.length, segments.length, this.schedule))
  }

  /** Forgets a slot and frees what it held. Throws `InvalidArgument` when it is not open. */
  closeSlot(id: number): void {
    if (!this.books.slots.has(id)) {
      throw new ExecutorError({ reason: "InvalidArgument", operation: `close slot ${id}`, detail: "it is not open" })
    }
    closeSlot(this.books, id)
  }

  /** Runs one step. Throws `InvalidPlan`, naming section and record, and changes nothing then. */
  step(plan: StepPlan): StepResult {
    if (plan.stepId !== this.stepId + 1) {
      const detail = `step id ${plan.stepId} after ${this.stepId}`
      throw new ExecutorError({ reason: "InvalidPlan", operation: `step ${plan.stepId}`, detail })
    }
    const books = forkBooks(this.books)
    const work = applyPlan(books, plan, this.limits)
    this.books = books
    this.stepId = plan.stepId
    return this.compute(work)
  }

  /** Tokens that a slot has output so far, those of its content included. */
  outputOf(slot: number): ReadonlyArray<number> {
    return this.books.slots.get(slot)?.output ?? []
  }

  /**
   * Recounts who holds which slab and compares with the books. Throws Error on the first difference.
   * Ensures: free + held + cached = all slabs.
   */
  checkIntegrity(): NaiveMemoryUse {
    const { slots, decode, memory } = this.books
    const holders = new Int32Array(memory.count)
    for (const slot of slots.values()) for (const { slabs } of slot.tables) for (const slab of slabs) holders[slab]!++
    let held = 0
    let cached = 0
    for (let slab = 0; slab < memory.count; slab++) {
      if (holders[slab] !== memory.holders[slab]) {
        throw new Error(`slab ${slab} is in ${holders[slab]} tables, the books say ${memory.holders[slab]}`)
      }
      if (memory.cached[slab] === 1 && memory.readOnly[slab] === 0)
        throw new Error(`slab ${slab} is cached and can be written`)
      if (holders[slab]! > 0) held++
      else if (memory.cached[slab] === 1) cached++
    }
    if (new Set(decode).size !== decode.length) throw new Error(`a slot decodes twice: ${decode.join(", ")}`)
    for (const slot of decode) if (!slots.has(slot)) throw new Error(`slot ${slot} decodes and is not open`)
    return { free: memory.free, held, cached }
  }

  private compute(work: Work): StepResult {
    const { memory, states, slots, decode } = this.books
    for (const slab of work.erase) memory.erase(slab)
    for (const [source, target] of work.copies) memory.copy(source, target)
    for (const [operation, own, stateSlot] of work.states) {
      if (operation === StateOperation.zero) states.erase(own)
      else if (operation === StateOperation.snapshot) states.copy(own, stateSlot)
      else states.copy(stateSlot, own)
    }
    const compute = new NaiveCompute(this.model, this.info.layout, this.schedule, memory, states)
    const result = new StepResult()
    result.stepId = this.stepId
    for (const id of decode) this.sampleRow(id, compute.decodeRow(slots.get(id)!), result)
    const rows = work.items.map((item) => {
      const { row, selections } = compute.item(slots.get(item.slot)!, item)
      for (const selection of selections) pushSelection(item.slot, selection, result)
      return row
    })
    for (const [item, id] of work.samples) {
      const source = slots.get(work.items[item]!.slot)!
      const target = slots.get(id)!
      if (target !== source) target.adopt(source)
      this.sampleRow(id, rows[item]!, result)
    }
    return result
  }

  /** Samples the token after a row, which becomes the slot's next decode row. */
  private sampleRow(id: number, row: Float64Array, result: StepResult): void {
    const slot = this.books.slots.get(id)!
    const { sampling, tokens, promptLength, returnLogits } = slot.content
    const logits = logitsOf(this.model, row)
    const { token, logprobs, nonFinite } = sample(logits, sampling, tokens.subarray(0, promptLength), slot.output)
    const stop = sampling.stopTokenIds.includes(token) ? TokenFlag.stop : 0
    result.tokens.push3(id, token, stop | (nonFinite ? TokenFlag.nonFinite : 0))
    if (logprobs.length > 0) {
      result.logprobs.push2(id, logprobs.length)
      for (const [candidate, logprob] of logprobs) result.logprobs.push2(candidate, floatBits(logprob))
    }
    if (returnLogits) {
      result.logits.push2(id, logits.length)
      for (const logit of logits) result.logits.push(floatBits(logit))
    }
    slot.output.push(token)
    slot.nextToken = token
  }
}

const pushSelection = (slot: number, selection: SelectionMade, result: StepResult): void => {
  const { segment, bitmap, fallback, replayed } = selection
  const flags = (fallback ? SelectionFlag.fallback : 0) | (replayed ? SelectionFlag.replayed : 0)
  result.selections.push3(slot, segment, flags)
  result.selections.push(bitmap.length)
  for (const word of bitmap) result.selections.push(word | 0)
}

const float = new Float32Array(1)
const bits = new Int32Array(float.buffer)

const floatBits = (value: number): number => {
  float[0] = value
  return bits[0]!
}
