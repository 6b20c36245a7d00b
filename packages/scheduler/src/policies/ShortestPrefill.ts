import type { Policy } from "../Policy.ts"

/** The prompt with the least predicted time of prefill left goes first: the best mean TTFT, at the expense of long ones. */
export const shortestPrefill: Policy = {
  name: "shortest-prefill",
  order: (queue) =>
    queue.sort((a, b) => a.remainingPrefillMicros - b.remainingPrefillMicros || a.id - b.id).map(({ id }) => id),
}
