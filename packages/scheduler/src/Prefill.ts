import type { KvLayout } from "@uniprefill/model/KvLayout"
import { roundDown } from "@uniprefill/units/Units"
import type { CostModel } from "./CostModel.ts"
import type { Memory } from "./Memory.ts"
import type { Request } from "./Request.ts"
import type { StepLoad } from "./StepLoad.ts"

/** Rows are cut at multiples of this from a segment's first row, whatever the budget. */
export const chunkRows = 64

/** A piece of prefill that fits a step. */
export interface PrefillChunk {
  readonly rows: number
  readonly lastSegment: number
}

/**
 * The largest piece of a request's prefill that keeps the step within `budgetMicros`, or null when not even the smallest
 * does. Leaves the piece's work in `load`.
 *
 * Costs grow with rows, so the number of rows is found by closing in on the budget from both sides. A piece that completes its segment runs on through
 * the next ones, counted with every row kept, as far as the budget and the `segmentRows` prefill rows that a step may bring to each
 * segment allow.
 */
export const largestChunk = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  costs: CostModel,
  budgetMicros: number,
  segmentRows: number,
  memory: Memory,
): PrefillChunk | null => {
  const segment = request.segment
  const rowsLeft = segmentRows - busiest(request, load)
  const remaining = request.prefillRows(segment) - request.computedRows
  const cut = segment === 0 ? memory.prefixes.rowsToCut(request, request.computedRows) : remaining
  const wanted = Math.min(remaining, cut)
  const most = wanted <= rowsLeft ? wanted : roundDown(rowsLeft, chunkRows)
  if (most <= 0 && remaining > 0) return null

  const costWith = (rows: number): number => {
    addChunk(request, layout, load, rows, 1)
    const micros = costs.stepMicros(load)
    addChunk(request, layout, load, rows, -1)
    return micros
  }
  let rows = most
  let above = costWith(most)
  if (above > budgetMicros) {
    if (remaining === 0) return null
    // Whole chunks of which `low` fit and `high` do not; costs are nearly straight lines, so the guess is close.
    let low = 0
    let high = Math.ceil(most / chunkRows)
    let below = costs.stepMicros(load)
    if (below > budgetMicros) return null
    while (high - low > 1) {
      const guess = low + Math.floor(((budgetMicros - below) / Math.max(1, above - below)) * (high - low))
      const middle = Math.max(low + 1, Math.min(high - 1, guess))
      const micros = costWith(middle * chunkRows)
      if (micros <= budgetMicros) {
        low = middle
        below = micros
      } else {
        high = middle
        above = micros
      }
    }
    if (low === 0) return null
    rows = low * chunkRows
  }
  addChunk(request, layout, load, rows, 1)
  return { rows, lastSegment: runOn(request, layout, load, costs, budgetMicros, rows, segmentRows, memory) }
}

/** The smallest piece, whatever it costs: what a step with nothing else to do, or a starved prompt, is given. */
export const smallestChunk = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  segmentRows: number,
): PrefillChunk | null => {
  const rows = Math.min(chunkRows, request.prefillRows(request.segment) - request.computedRows)
  if (rows > segmentRows - busiest(request, load)) return null
  addChunk(request, layout, load, rows, 1)
  return { rows, lastSegment: endSegment(request, layout) }
}

/** Most prefill rows that the step has in any segment that the request's next rows pass. */
const busiest = (request: Request, load: StepLoad): number =>
  request.drops ? load.rows[request.segment]! : load.rows.reduce((most, rows) => Math.max(most, rows), 0)

/** Takes a piece's work out of `load` again. */
export const takeBack = (request: Request, layout: KvLayout, load: StepLoad, chunk: PrefillChunk): void => {
  addChunk(request, layout, load, chunk.rows, -1)
  if (!request.drops) return
  for (let segment = request.segment + 1; segment <= chunk.lastSegment; segment++) {
    addSegment(request, load, segment, 0, request.prefillRows(segment), -1)
    addScoring(request, layout, load, segment, -1)
  }
}

/** Puts the rest of a request's prefill into `load`, which is otherwise empty: every row of its last known set kept. */
export const loadRest = (request: Request, layout: KvLayout, load: StepLoad): void => {
  load.clearPrefill()
  addChunk(request, layout, load, request.prefillRows(request.segment) - request.computedRows, 1)
  if (!request.drops) return
  for (let segment = request.segment + 1; segment < layout.segments.length; segment++) {
    addSegment(request, load, segment, 0, request.prefillRows(segment), 1)
    addScoring(request, layout, load, segment, 1)
  }
}

/** Whether `rows` more rows complete the segment that the request is in. */
export const completesSegment = (request: Request, rows: number): boolean =>
  request.computedRows + rows === request.prefillRows(request.segment)

const endSegment = (request: Request, layout: KvLayout): number =>
  request.drops ? request.segment : layout.segments.length - 1

/** Adds (or takes away) a piece of the request's current segment, and the selection after it where it completes it. */
const addChunk = (request: Request, layout: KvLayout, load: StepLoad, rows: number, sign: 1 | -1): void => {
  const first = request.computedRows
  load.items += sign
  if (!request.drops) {
    load.tokens += sign * rows
    for (let s = 0; s < layout.segments.length; s++) {
      const all = request.prefillRows(s)
      load.addRows(sign, s, first, rows, all, all)
    }
    return
  }
  addSegment(request, load, request.segment, first, rows, sign)
  if (completesSegment(request, rows)) addScoring(request, layout, load, request.segment, sign)
}

const addSegment = (
  request: Request,
  load: StepLoad,
  segment: number,
  first: number,
  rows: number,
  sign: 1 | -1,
): void => {
  const previous = segment === 0 ? 0 : request.prefillRows(segment - 1)
  load.tokens += sign * rows
  load.addRows(sign, segment, first, rows, request.prefillRows(segment), previous)
}

const addScoring = (request: Request, layout: KvLayout, load: StepLoad, segment: number, sign: 1 | -1): void => {
  if (segment < layout.segments.length - 1) load.scoredRows[segment]! += sign * request.rowsOf(segment)
}

const runOn = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  costs: CostModel,
  budgetMicros: number,
  rows: number,
  segmentRows: number,
  memory: Memory,
): number => {
  let last = endSegment(request, layout)
  if (!request.drops || !completesSegment(request, rows)) return last
  while (last + 1 < layout.segments.length) {
    const next = last + 1
    addSegment(request, load, next, 0, request.prefillRows(next), 1)
    addScoring(request, layout, load, next, 1)
    const fits = load.rows[next]! <= segmentRows && costs.stepMicros(load) <= budgetMicros
    if (!fits || !memory.reserveRun(request, rows, next)) {
      addSegment(request, load, next, 0, request.prefillRows(next), -1)
      addScoring(request, layout, load, next, -1)
      break
    }
    last = next
  }
  return last
}
