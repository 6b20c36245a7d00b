import type { Policy } from "../Policy.ts"

/** The prompt whose first token is due first goes first; those without a deadline follow in order of arrival. */
export const earliestDeadline: Policy = {
  name: "earliest-deadline",
  order: (queue) =>
    queue.sort((a, b) => compare(a.deadlineMicros, b.deadlineMicros) || a.id - b.id).map(({ id }) => id),
}

/** Infinity − Infinity is no number. */
const compare = (a: number, b: number): number => (a === b ? 0 : a - b)
