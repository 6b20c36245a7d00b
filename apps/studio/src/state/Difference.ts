import type { Timeline } from "@uniprefill/simulator/timetravel/Timeline"

/** The first step at which two runs part. */
export interface Difference {
  /** Its place in both, up to which they are the same. */
  readonly step: number
  readonly micros: number
}

/** Compares what the columns of two runs say of every step and of the pieces of prefill in it; null for equal runs. */
export const firstDifference = (a: Timeline, b: Timeline): Difference | null => {
  const count = Math.min(a.steps.count, b.steps.count)
  let item = 0
  for (let i = 0; i < count; i++) {
    if (!equalSteps(a, b, i)) return { step: i, micros: Math.min(a.steps.start[i]!, b.steps.start[i]!) }
    for (let left = a.steps.items[i]!; left > 0; left--, item++) {
      if (!equalItems(a, b, item)) return { step: i, micros: a.steps.start[i]! }
    }
  }
  if (a.steps.count === b.steps.count) return null
  const longer = a.steps.count > count ? a : b
  return { step: count, micros: longer.steps.start[count]! }
}

const equalSteps = ({ steps: a }: Timeline, { steps: b }: Timeline, i: number): boolean =>
  a.start[i] === b.start[i] &&
  a.micros[i] === b.micros[i] &&
  a.replica[i] === b.replica[i] &&
  a.decodeRows[i] === b.decodeRows[i] &&
  a.items[i] === b.items[i] &&
  a.waiting[i] === b.waiting[i] &&
  a.used[i] === b.used[i] &&
  a.rows.every((rows, s) => rows[i] === b.rows[s]![i])

const equalItems = ({ items: a }: Timeline, { items: b }: Timeline, i: number): boolean =>
  a.request[i] === b.request[i] && a.rows[i] === b.rows[i] && a.firstSegment[i] === b.firstSegment[i]
