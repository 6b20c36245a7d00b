import { type DropSchedule, denseSchedule } from "@uniprefill/model/DropSchedule"
import { makeKvLayout } from "@uniprefill/model/KvLayout"
import { kvWidth } from "@uniprefill/model/ModelSpec"
import { StateOperation, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { FailureReason, SelectionFlag, StepResult, TokenFlag } from "@uniprefill/scheduler/StepResult"
import { contentFault } from "../contract/ContentFault.ts"
import { ExecutorError, type ExecutorInfo, type RequestContent } from "../contract/Executor.ts"
import { applyPlan, Books, type Item, type PlanLimits, type Work } from "../contract/PlanBooks.ts"
import { ReferenceCompute, type SelectionMade } from "./ReferenceCompute.ts"
import { logitsOf, referenceAttention, type ReferenceModel } from "./ReferenceModel.ts"
import { logprobsOf, sample } from "./ReferenceSampler.ts"
import { SlabMemory } from "./SlabMemory.ts"
import { StateMemory } from "./StateMemory.ts"

export interface ReferenceRunnerOptions {
  readonly model: ReferenceModel
  readonly schedule?: DropSchedule
  readonly pageSize?: number
  readonly slabs?: number
  readonly stateSlots?: number
  readonly slots?: number
  readonly maxRowsPerStep?: number
  readonly maxTokens?: number
}

/** What a runner's memory looks like between steps. */
export interface ReferenceMemoryUse {
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
 * Synchronous, one step at a time; every method throws ExecutorError.
 */
export class ReferenceRunner {
  readonly info: ExecutorInfo
  private readonly model: ReferenceModel
  private readonly schedule: DropSchedule
  private readonly limits: PlanLimits
  private readonly books: Books
  private readonly memory: SlabMemory
  private readonly states: StateMemory
  private readonly computing: ReferenceCompute

  constructor(options: ReferenceRunnerOptions) {
    const { model, schedule = denseSchedule, pageSize = 64, slabs = 1024, slots = 16 } = options
    const { stateSlots = 16, maxRowsPerStep = 1024, maxTokens = model.spec.maxPositions } = options
    const { spec } = model
    const layout = makeKvLayout(spec, schedule, { pageSize, kvElementBytes: 8, carryElementBytes: 8 })
    const states = layout.stateSlotBytes > 0 ? stateSlots : 0
    this.model = model
    this.schedule = schedule
    this.limits = { layout, schedule, slots, vocab: spec.vocabSize, maxRowsPerStep, maxTokens }
    this.info = {
      device: "reference",
      layout,
      slabs,
      stateSlots: states,
      slots,
      maxRowsPerStep,
      maxTokens,
      maxStepsInFlight: 2,
      tensorParallel: 1,
    }
    this.books = new Books(slabs, states, layout.segments.length)
    this.memory = new SlabMemory(slabs, layout.slabBytes / 8)
    this.states = new StateMemory(states, spec.layers.length, kvWidth(referenceAttention(spec)))
    this.computing = new ReferenceCompute(model, layout, schedule, this.memory, this.states, this.books.states)
  }

  /** Stores the content that a plan will open a slot with. Throws `InvalidArgument`. */
  putContent(id: number, content: RequestContent): void {
    const fault = this.books.contents.has(id)
      ? "the id is taken"
      : contentFault(content, this.info, this.model.spec.vocabSize, this.schedule)
    if (fault !== null) {
      throw new ExecutorError({ reason: "InvalidArgument", operation: `put content ${id}`, detail: fault })
    }
    const own = { ...content, tokens: content.tokens.slice(), bitmaps: content.bitmaps.map((bitmap) => bitmap.slice()) }
    this.books.contents.set(id, own)
  }

  forgetContent(id: number): void {
    this.books.contents.delete(id)
  }

  /** Contents that no slot has been opened for. */
  get storedContents(): number {
    return this.books.contents.size
  }

  get openSlots(): number {
    return this.books.slots.size
  }

  /** Runs one step. Throws `InvalidPlan`, naming section and record; nothing but contents is left then. */
  step(plan: StepPlan): StepResult {
    const work = applyPlan(this.books, plan, this.limits)
    return this.compute(work)
  }

  /** A step fails by its device, whatever it was: nothing but contents is left, and its number comes again. */
  fail(): void {
    this.books.reset()
  }

  /** Tokens that a slot has output so far, those of its content included. */
  outputOf(slot: number): ReadonlyArray<number> {
    return this.books.slots.get(slot)?.output ?? []
  }

  /**
   * Recounts who holds which slab and compares with the books. Throws Error on the first difference.
   * Ensures: free + held + cached = all slabs.
   */
  checkIntegrity(): ReferenceMemoryUse {
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
    const { memory, states, computing } = this
    const { slots, decode, stepId } = this.books
    for (const slab of work.erase) memory.erase(slab)
    for (const [source, target] of work.copies) memory.copy(source, target)
    for (const [operation, own, stateSlot] of work.states) {
      if (operation === StateOperation.zero) states.erase(own)
      else if (operation === StateOperation.snapshot) states.copy(own, stateSlot)
      else states.copy(stateSlot, own)
    }
    const result = new StepResult()
    result.stepId = stepId
    for (const id of decode) this.sampleRow(id, computing.decodeRow(slots.get(id)!), result)
    const ends = work.items.map((item) => {
      const { rows, selections } = computing.item(slots.get(item.slot)!, item)
      for (const selection of selections) pushSelection(item.slot, selection, result)
      this.reportPrompt(item, rows, result)
      return rows.at(-1)!
    })
    for (const [item, id] of work.samples) {
      const source = slots.get(work.items[item]!.slot)!
      const target = slots.get(id)!
      if (target !== source) target.adopt(source)
      this.sampleRow(id, ends[item]!, result)
    }
    return result
  }

  /** What each row of a prompt says of the prompt's next token, where that was asked for. */
  private reportPrompt({ slot, firstRow }: Item, rows: ReadonlyArray<Float64Array>, result: StepResult): void {
    const { promptLogprobs, promptLength, tokens } = this.books.slots.get(slot)!.content
    if (promptLogprobs < 0) return
    for (const [i, row] of rows.entries()) {
      const next = firstRow + i + 1
      if (next >= promptLength) return
      const logprobs = logprobsOf(logitsOf(this.model, row), tokens[next]!, promptLogprobs)
      result.promptLogprobs.push3(slot, next - 1, logprobs.length)
      for (const [token, logprob] of logprobs) result.promptLogprobs.push2(token, floatBits(logprob))
    }
  }

  /** Samples the token after a row, which becomes the slot's next decode row. */
  private sampleRow(id: number, row: Float64Array, result: StepResult): void {
    const slot = this.books.slots.get(id)!
    const { sampling, tokens, promptLength, returnLogits } = slot.content
    const logits = logitsOf(this.model, row)
    const { token, logprobs, nonFinite } = sample(logits, sampling, tokens.subarray(0, promptLength), slot.output)
    if (nonFinite) {
      result.failures.push2(id, FailureReason.nonFinite)
      slot.nextToken = 0
      return
    }
    result.tokens.push3(id, token, sampling.stopTokenIds.includes(token) ? TokenFlag.stop : 0)
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
