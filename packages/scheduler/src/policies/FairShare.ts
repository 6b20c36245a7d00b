import type { Policy } from "../Policy.ts"

/** The tenant that has been served least goes first, its own prompts in order of arrival; the one served most makes room. */
export const fairShare: Policy = {
  name: "fair-share",
  order: (queue) => queue.sort((a, b) => a.tenantServed - b.tenantServed || a.id - b.id).map(({ id }) => id),
  victims: (running) => running.sort((a, b) => b.tenantServed - a.tenantServed || b.id - a.id).map(({ id }) => id),
}
