import type { ExecutorError, RequestContent } from "@uniprefill/executor/contract/Executor"
import type { ReferenceMemoryUse, ReferenceRunner } from "@uniprefill/executor/reference/ReferenceRunner"
import { type Section, StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { expect } from "vitest"

/** Records by section; sections that are not named are empty. */
export type Sections = Partial<Record<Section, ReadonlyArray<number>>>

/** A content, and the slot that is to be opened with it. */
export interface ContentForSlot extends RequestContent {
  readonly slot: number
}

/** Plans written out by hand, one after another. Slots are opened and closed by the next plan. */
export class PlanBench {
  runner: ReferenceRunner
  private readonly make: () => ReferenceRunner
  private readonly puts: Array<readonly [id: number, content: RequestContent]> = []
  private readonly done: Array<Sections> = []
  private opens: Array<number> = []
  private closes: Array<number> = []
  private readonly decoding = new Set<number>()

  constructor(make: () => ReferenceRunner) {
    this.make = make
    this.runner = make()
  }

  open({ slot, ...content }: ContentForSlot): void {
    const id = this.puts.length + 1
    this.runner.putContent(id, content)
    this.puts.push([id, content])
    this.opens.push(slot, id)
  }

  close(slot: number): void {
    this.closes.push(slot)
  }

  /** The next plan does not open what it would have. */
  withdraw(slot: number): void {
    this.opens.splice(
      this.opens.findIndex((value, i) => i % 2 === 0 && value === slot),
      2,
    )
  }

  run(named: Sections): StepResult {
    const sections = this.withSlots(named)
    const result = this.runner.step(planOf(this.done.length + 1, sections))
    this.done.push(sections)
    this.opens = []
    this.closes = []
    for (const slot of sections.leaves ?? []) this.decoding.delete(slot)
    for (const [i, slot] of (sections.joins ?? []).entries()) if (i % 2 === 0) this.decoding.add(slot)
    return result
  }

  /** Why the runner refuses a plan. It has forgotten everything then, and is brought back to where it was. */
  refusal(named: Sections): string {
    const stepId = this.done.length + 1
    try {
      this.runner.step(planOf(stepId, this.withSlots(named)))
    } catch (error) {
      expect(this.runner.checkIntegrity()).toEqual({ free: this.runner.info.slabs, held: 0, cached: 0 })
      expect(this.runner.openSlots).toBe(0)
      expect(error).toMatchObject({ reason: "InvalidPlan", operation: `step ${stepId}` })
      this.runner = this.make()
      for (const [id, content] of this.puts) this.runner.putContent(id, content)
      for (const [i, sections] of this.done.entries()) this.runner.step(planOf(i + 1, sections))
      return (error as ExecutorError).detail
    }
    throw new Error("the plan was carried out")
  }

  /** Recounts the runner's memory, when slots have been opened and closed. */
  integrity(): ReferenceMemoryUse {
    if (this.opens.length + this.closes.length > 0) this.run({})
    return this.runner.checkIntegrity()
  }

  private withSlots(named: Sections): Sections {
    const { opens, closes } = this
    const leaves = closes.filter((slot) => this.decoding.has(slot))
    return {
      ...named,
      ...(leaves.length > 0 ? { leaves: [...(named.leaves ?? []), ...leaves] } : {}),
      ...(closes.length > 0 ? { closes: [...closes, ...(named.closes ?? [])] } : {}),
      ...(opens.length > 0 ? { opens: [...opens, ...(named.opens ?? [])] } : {}),
    }
  }
}

export const planOf = (stepId: number, named: Sections): StepPlan => {
  const plan = new StepPlan()
  plan.clear(stepId)
  for (const [name, values] of Object.entries(named)) plan[name as Section].pushAll(values)
  return plan
}

/** Grants `pages` slabs from `from` on to a table of a slot, whose pages are one slab each. */
export const grant = (slot: number, table: number, from: number, pages: number): Array<number> =>
  Array.from({ length: pages }, (_, i) => [slot, table, from + i]).flat()
