import type { Driver, DriverConfig } from "@uniprefill/scheduler/Driver"
import type { Request } from "@uniprefill/scheduler/Request"

/**
 * Slabs that must be left when a prompt is admitted: for the next tokens of each answer, its own included, and what has changed
 * since somebody was given a page.
 */
export const headroom = (
  { scheduler }: Driver,
  request: Request,
  { layout, slots, headroomTokens: tokens = 384 }: DriverConfig,
): number => {
  let slabs = 0
  let running = 0
  const add = ({ maxTokens, outputs }: Request) => {
    for (const { kind, slabsPerPage } of layout.tables) {
      if (kind === "full") slabs += Math.ceil(Math.min(tokens, maxTokens - outputs) / layout.pageSize) * slabsPerPage
    }
  }
  for (let slot = 0; slot < slots; slot++) {
    const one = scheduler.requestAt(slot)
    if (one === null) continue
    running++
    add(one)
  }
  add(request)
  return running === 0 ? 0 : slabs
}
