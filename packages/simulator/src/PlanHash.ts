import { sections, type StepPlan } from "@uniprefill/scheduler/StepPlan"

/**
 * A hash chain over plans: equal chains mean equal decisions. Two lanes of 32 bits; every step's number, and every section
 * that holds something, with its length and content.
 */
export class PlanHash {
  private a = 0x811c9dc5
  private b = 0x2545f491

  add(plan: StepPlan): void {
    this.mix(plan.stepId)
    for (let s = 0; s < sections.length; s++) {
      const { data, length } = plan[sections[s]!]
      if (length === 0) continue
      this.mix((s << 24) ^ length)
      for (let i = 0; i < length; i++) this.mix(data[i]!)
    }
  }

  mix(word: number): void {
    this.a = Math.imul(this.a ^ word, 0x01000193)
    this.b = Math.imul((this.b << 13) ^ (this.b >>> 19) ^ word, 0x85ebca6b)
  }

  /** 16 hexadecimal digits. */
  get digest(): string {
    return [this.a, this.b].map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("")
  }
}
