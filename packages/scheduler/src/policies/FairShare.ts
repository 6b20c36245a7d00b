import type { Policy } from "../Policy.ts"

/**
 * How long a prompt waits for a slot before its tenant may take one from another: many short answers give one up sooner, and
 * what is taken is computed again.
 */
const patienceMicros = 75_000

/**
 * The tenant that has been served least goes first, its own prompts in order of arrival; the one served most makes room. Where
 * none comes free, a tenant takes a slot from one that was served more and has at least two more: so nothing is taken back at
 * once, neither by the order nor in turn.
 */
export const fairShare: Policy = {
  name: "fair-share",
  order: (queue) => queue.sort((a, b) => a.tenantServed - b.tenantServed || a.id - b.id).map(({ id }) => id),
  victims: (running) => running.sort((a, b) => b.tenantServed - a.tenantServed || b.id - a.id).map(({ id }) => id),
  preempts: (waiting, running) =>
    waiting.tenantServed < running.tenantServed && waiting.tenantRunning + 2 <= running.tenantRunning,
  preemptsAfterMicros: patienceMicros,
}
