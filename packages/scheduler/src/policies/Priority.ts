import type { Policy } from "../Policy.ts"

/** The lower `priority` first, then the earlier arrival. The least urgent makes room, the latest arrival first. */
export const priority: Policy = {
  name: "priority",
  order: (queue) => queue.sort((a, b) => a.priority - b.priority || a.id - b.id).map(({ id }) => id),
  victims: (running) => running.sort((a, b) => b.priority - a.priority || b.id - a.id).map(({ id }) => id),
}
