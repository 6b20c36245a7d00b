import type { ExecutorError } from "@uniprefill/executor/Executor"
import type { NaiveRunner } from "@uniprefill/executor/NaiveRunner"
import { type Section, StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { expect } from "vitest"

/** Records by section; sections that are not named are empty. */
export type Sections = Partial<Record<Section, ReadonlyArray<number>>>

/** Plans written out by hand, one after another. */
export class PlanBench {
  readonly runner: NaiveRunner
  private stepId = 0

  constructor(runner: NaiveRunner) {
    this.runner = runner
  }

  planOf(named: Sections): StepPlan {
    const plan = new StepPlan()
    plan.stepId = this.stepId + 1
    for (const [name, values] of Object.entries(named)) plan[name as Section].pushAll(values)
    return plan
  }

  run(named: Sections): StepResult {
    const result = this.runner.step(this.planOf(named))
    this.stepId++
    return result
  }

  /** Why the runner refuses a plan; its memory must be as before. */
  refusal(named: Sections): string {
    const before = this.runner.checkIntegrity()
    try {
      this.runner.step(this.planOf(named))
    } catch (error) {
      expect(this.runner.checkIntegrity()).toEqual(before)
      expect(error).toMatchObject({ reason: "InvalidPlan", operation: `step ${this.stepId + 1}` })
      return (error as ExecutorError).detail
    }
    throw new Error("the plan was carried out")
  }
}

/** Grants `pages` slabs from `from` on to a table of a slot, whose pages are one slab each. */
export const grant = (slot: number, table: number, from: number, pages: number): Array<number> =>
  Array.from({ length: pages }, (_, i) => [slot, table, from + i]).flat()
