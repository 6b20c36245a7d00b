import type { Policy, QueuedPrompt, RunningRequest } from "../Policy.ts"

/**
 * How many levels more important a prompt must be to take the place of a request that runs. Its work is computed again, so the
 * same level never does.
 */
export const preemptionMargin = 1

/**
 * The lower `priority` first, then the earlier arrival. The least important makes room, one that decodes before one in
 * prefill, the latest arrival first; for slots as for memory.
 */
export const priority: Policy = {
  name: "priority",
  byPriority: true,
  order: (queue) => queue.sort((a, b) => a.priority - b.priority || a.id - b.id).map(({ id }) => id),
  victims: (running) =>
    running
      .sort((a, b) => b.priority - a.priority || Number(b.isDecoding) - Number(a.isDecoding) || b.id - a.id)
      .map(({ id }) => id),
  preempts: (waiting: QueuedPrompt, running: RunningRequest) => waiting.priority + preemptionMargin <= running.priority,
}
