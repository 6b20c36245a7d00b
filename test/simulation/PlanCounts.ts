import { ItemField, sectionWidths, StateOperation, type StepPlan } from "@uniprefill/scheduler/StepPlan"

/** What plans hold of what is seldom. */
export class PlanCounts {
  /** Answers that went on from another's prefill. */
  forks = 0
  /** Recurrent states copied for later, and restored. */
  snapshots = 0
  restores = 0
  /** Pages that windows gave back. */
  windowsFreed = 0

  count({ samples, items, states, windowFrees }: StepPlan): void {
    for (let i = 0; i < samples.length; i += 2) {
      const item = samples.data[i]! * sectionWidths.items
      if (items.data[item + ItemField.slot] !== samples.data[i + 1]) this.forks++
    }
    for (let i = 0; i < states.length; i += 3) {
      if (states.data[i + 1] === StateOperation.snapshot) this.snapshots++
      if (states.data[i + 1] === StateOperation.restore) this.restores++
    }
    for (let i = 0; i < windowFrees.length; i += 3) this.windowsFreed += windowFrees.data[i + 2]!
  }
}
