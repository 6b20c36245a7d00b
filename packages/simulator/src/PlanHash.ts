import type { StepPlan } from "@uniprefill/scheduler/StepPlan"

/**
 * A hash chain over plans: equal chains mean equal decisions. Every step's number, and every section that holds something with
 * its length and content, in 32 bits; and the chain of those values after each section, in 32 more.
 */
export class PlanHash {
  private a = 0x811c9dc5
  private b = 0x2545f491

  add(plan: StepPlan): void {
    let a = Math.imul(this.a ^ plan.stepId, 0x01000193)
    let b = this.b
    const { lists } = plan
    for (let s = 0; s < lists.length; s++) {
      const { data, length } = lists[s]!
      if (length === 0) continue
      a = Math.imul(a ^ ((s << 24) ^ length), 0x01000193)
      // Three integers at a time, as most records have: their products do not wait for each other.
      let i = 0
      for (; i + 2 < length; i += 3) {
        const record =
          Math.imul(data[i]!, 0x9e3779b1) ^ Math.imul(data[i + 1]!, 0x85ebca6b) ^ Math.imul(data[i + 2]!, 0xc2b2ae35)
        a = Math.imul(a ^ record, 0x01000193)
        a ^= a >>> 15
      }
      for (; i < length; i++) {
        a = Math.imul(a ^ data[i]!, 0x01000193)
        a ^= a >>> 15
      }
      b = Math.imul(b ^ a, 0x85ebca6b)
      b ^= b >>> 13
    }
    this.a = a
    this.b = b
  }

  /** 16 hexadecimal digits. */
  get digest(): string {
    return [this.a, this.b].map((word) => (word >>> 0).toString(16).padStart(8, "0")).join("")
  }
}
