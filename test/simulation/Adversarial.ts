import type { Policy } from "@uniprefill/scheduler/Policy"

/** Says things twice, leaves others out, changes its mind at every step, and would sacrifice the oldest first. */
export const adversarial: Policy = {
  name: "adversarial",
  order: (queue, now) =>
    queue
      .filter(({ id }) => (id * 7 + now) % 5 > 0)
      .sort((a, b) => ((a.id * 31 + now) % 7) - ((b.id * 31 + now) % 7) || b.promptLength - a.promptLength)
      .flatMap(({ id }) => [id, id]),
  victims: (running) => running.sort((a, b) => a.id - b.id).map(({ id }) => id),
}
