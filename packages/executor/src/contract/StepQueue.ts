import { StepPlan } from "@uniprefill/scheduler/StepPlan"
import { Effect, Latch } from "effect"

/** Steps that were enqueued and not begun, for executors that carry out one when it is asked for. */
export class StepQueue {
  private readonly most: number
  private readonly waiting: Array<StepPlan> = []
  private readonly spare: Array<StepPlan> = []
  /** The step being carried out, or the last one. */
  private current: StepPlan | null = null
  private readonly any = Latch.makeUnsafe(false)

  constructor(most: number) {
    this.most = most
  }

  /** Keeps a copy of the plan. Throws RangeError when as many steps wait as may. */
  push(plan: StepPlan): void {
    if (this.waiting.length >= this.most) throw new RangeError(`${this.most} steps are in flight already`)
    const copy = this.spare.pop() ?? new StepPlan()
    copy.assign(plan)
    this.waiting.push(copy)
    this.any.openUnsafe()
  }

  /** The oldest plan, once there is one; valid until the next is asked for. */
  readonly next: Effect.Effect<StepPlan> = Effect.suspend(() =>
    Effect.map(this.any.await, () => {
      if (this.current !== null) this.spare.push(this.current)
      this.current = this.waiting.shift()!
      if (this.waiting.length === 0) this.any.closeUnsafe()
      return this.current
    }),
  )

  /** The step being carried out failed, and with it those that wait. */
  clear(): void {
    this.spare.push(...this.waiting.splice(0))
    this.any.closeUnsafe()
  }
}
