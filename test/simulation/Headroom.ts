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

/** Slabs that the answers of all with a slot, and of one more, take soon beyond the pages that they have; 0 where none has a slot. */
export const growthAhead = (
  { scheduler }: Driver,
  next: Request,
  { layout, slots, headroomTokens: tokens = 384 }: DriverConfig,
  outputsOf: (request: Request) => number,
): number => {
  const growing = [next]
  for (let slot = 0; slot < slots; slot++) {
    const one = scheduler.requestAt(slot)
    if (one !== null) growing.push(one)
  }
  if (growing.length === 1) return 0
  let pages = 0
  for (const one of growing) pages += Math.floor(Math.min(tokens, one.maxTokens - outputsOf(one)) / layout.pageSize)
  return layout.tables.reduce((sum, { kind, slabsPerPage }) => sum + (kind === "full" ? pages * slabsPerPage : 0), 0)
}
