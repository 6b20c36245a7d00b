import type { KvLayout } from "@uniprefill/model/KvLayout"
import { roundDown } from "@uniprefill/units/Units"
import type { CostModel } from "./CostModel.ts"
import type { Request } from "./Request.ts"
import { completesSegment, lastSegmentTogether, passesTogether } from "./Span.ts"
import type { StepLoad } from "./StepLoad.ts"

/** Rows are cut at multiples of this from a segment's first row, whatever the budget, where the configuration says nothing. */
export const defaultChunkRows = 64

/** A piece of prefill that fits a step. */
export interface PrefillChunk {
  readonly rows: number
  readonly lastSegment: number
}

/** What a chunk has to fit into. */
export interface ChunkLimits {
  /** How a step is measured, and how much of that it may be. */
  readonly measure: CostModel
  readonly most: number
  /** Prefill rows that each segment may have in the step. */
  readonly rowsPerSegment: number
  /** Rows are cut at multiples of this. */
  readonly chunkRows: number
  /** Rows after which the chunk is cut, whatever fits: where prefill can resume. */
  readonly cut: number
  /** Whether an item of so many rows that runs on to a segment finds its memory. */
  readonly hasMemory: (request: Request, rows: number, lastSegment: number) => boolean
}

/**
 * The largest piece of a request's prefill that keeps the step within its limits, or null when not even the smallest does.
 * Decides and changes nothing: `load`, the step's work so far, is as it was.
 *
 * Costs grow with rows, so the number of rows is found by closing in on the budget from both sides. A piece that completes
 * its segment runs on through the next ones, counted with every row kept, as far as the budget allows.
 */
export const largestChunk = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  limits: ChunkLimits,
): PrefillChunk | null => {
  const { progress } = request
  const remaining = progress.prefillRows(progress.segment) - progress.computedRows
  const wanted = Math.min(remaining, limits.cut)
  const left = rowsLeft(request, layout, load, limits.rowsPerSegment)
  const most = wanted <= left ? wanted : roundDown(left, limits.chunkRows)
  if (most <= 0 && remaining > 0) return null
  const rows = mostRowsWithin(request, layout, load, most, limits)
  if (rows < 0 || (rows === 0 && remaining > 0)) return null
  return { rows, lastSegment: runOn(request, layout, load, rows, limits) }
}

/** The smallest piece, whatever it costs: what a step with nothing else to do, or a starved prompt, is given. */
export const smallestChunk = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  { rowsPerSegment, chunkRows }: Pick<ChunkLimits, "rowsPerSegment" | "chunkRows">,
): PrefillChunk | null => {
  const { progress } = request
  const smallest = Math.min(chunkRows, progress.prefillRows(progress.segment) - progress.computedRows)
  if (smallest > rowsLeft(request, layout, load, rowsPerSegment)) return null
  return { rows: smallest, lastSegment: lastSegmentTogether(request, progress.segment, layout) }
}

/** Adds a piece's work to a step, or (`sign` −1) takes it away again. */
export const addChunk = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  { rows, lastSegment }: PrefillChunk,
  sign: 1 | -1 = 1,
): void => {
  addRows(request, layout, load, rows, sign)
  if (!request.drops) return
  for (let segment = request.progress.segment + 1; segment <= lastSegment; segment++) {
    addSegment(request, layout, load, segment, sign)
  }
}

/**
 * Puts the rest of a request's prefill into `load`, which is otherwise empty: every row of its last known set kept.
 * `computedRows` of its segment are not part of it.
 */
export const loadRest = (request: Request, layout: KvLayout, load: StepLoad, computedRows: number): void => {
  const { progress } = request
  load.clearPrefill()
  const rows = progress.prefillRows(progress.segment) - computedRows
  addRows(request, layout, load, rows, 1, computedRows)
  if (!request.drops) return
  for (let segment = progress.segment + 1; segment < layout.segments.length; segment++) {
    addSegment(request, layout, load, segment, 1)
  }
}

/**
 * Adds what an item turned out to be, once the selections on its way are known. `firstRow` and `rows` are of its first
 * segment.
 */
export const addDone = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  item: {
    readonly firstRow: number
    readonly rows: number
    readonly firstSegment: number
    readonly lastSegment: number
  },
): void => {
  const { progress } = request
  const { firstRow, rows, firstSegment, lastSegment } = item
  load.items++
  load.tokens += rows
  for (let s = firstSegment; s <= lastSegment; s++) {
    const all = progress.prefillRows(s)
    const together = passesTogether(request, firstSegment, s)
    const first = together ? firstRow : 0
    const count = together ? rows : all
    const previous = !request.drops ? all : s === 0 ? 0 : progress.prefillRows(s - 1)
    load.addRows(1, s, first, count, all, previous)
    if (request.drops && first + count === all) addScoring(request, layout, load, s, 1)
  }
}

/** Rows of the request that the step still takes, in every segment that they pass together. */
const rowsLeft = (request: Request, layout: KvLayout, load: StepLoad, rowsPerSegment: number): number => {
  const { segment } = request.progress
  let taken = 0
  for (let s = segment; s <= lastSegmentTogether(request, segment, layout); s++) taken = Math.max(taken, load.rows[s]!)
  return rowsPerSegment - taken
}

/** What the step costs with so many more rows of the request. */
const costWith = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  rows: number,
  { measure }: ChunkLimits,
): number => {
  addRows(request, layout, load, rows, 1)
  const cost = measure.stepMicros(load)
  addRows(request, layout, load, rows, -1)
  return cost
}

/** Whole chunks, or all of `most`, that cost no more than the limit; −1 where not even none do. */
const mostRowsWithin = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  most: number,
  limits: ChunkLimits,
): number => {
  const { most: limit, measure, chunkRows } = limits
  let above = costWith(request, layout, load, most, limits)
  if (above <= limit) return most
  // Whole chunks of which `low` fit and `high` do not; costs are nearly straight lines, so the guess is close.
  let low = 0
  let high = Math.ceil(most / chunkRows)
  let below = measure.stepMicros(load)
  if (below > limit || most === 0) return -1
  while (high - low > 1) {
    const guess = low + Math.floor(((limit - below) / Math.max(1, above - below)) * (high - low))
    const middle = Math.max(low + 1, Math.min(high - 1, guess))
    const cost = costWith(request, layout, load, middle * chunkRows, limits)
    if (cost <= limit) {
      low = middle
      below = cost
    } else {
      high = middle
      above = cost
    }
  }
  return low * chunkRows
}

/** How far an item of so many rows runs on. */
const runOn = (request: Request, layout: KvLayout, load: StepLoad, rows: number, limits: ChunkLimits): number => {
  const { segment } = request.progress
  const together = lastSegmentTogether(request, segment, layout)
  if (!request.drops || !completesSegment(request, rows)) return together
  addRows(request, layout, load, rows, 1)
  let last = segment
  while (last + 1 < layout.segments.length) {
    addSegment(request, layout, load, last + 1, 1)
    const fits = load.rows[last + 1]! <= limits.rowsPerSegment && limits.measure.stepMicros(load) <= limits.most
    if (!fits || !limits.hasMemory(request, rows, last + 1)) {
      addSegment(request, layout, load, last + 1, -1)
      break
    }
    last++
  }
  addChunk(request, layout, load, { rows, lastSegment: last }, -1)
  return last
}

/** Adds (or takes away) rows of the request's current segment, and the selection after it where they complete it. */
const addRows = (
  request: Request,
  layout: KvLayout,
  load: StepLoad,
  rows: number,
  sign: 1 | -1,
  first = request.progress.computedRows,
): void => {
  const { progress } = request
  const { segment } = progress
  load.items += sign
  load.tokens += sign * rows
  if (!request.drops) {
    for (let s = 0; s < layout.segments.length; s++) {
      const all = progress.prefillRows(s)
      load.addRows(sign, s, first, rows, all, all)
    }
    return
  }
  const all = progress.prefillRows(segment)
  load.addRows(sign, segment, first, rows, all, segment === 0 ? 0 : progress.prefillRows(segment - 1))
  if (first + rows === all) addScoring(request, layout, load, segment, sign)
}

/** Adds (or takes away) all rows of a later segment of a request that drops, and the selection after it. */
const addSegment = (request: Request, layout: KvLayout, load: StepLoad, segment: number, sign: 1 | -1): void => {
  const { progress } = request
  const rows = progress.prefillRows(segment)
  load.tokens += sign * rows
  load.addRows(sign, segment, 0, rows, rows, progress.prefillRows(segment - 1))
  addScoring(request, layout, load, segment, sign)
}

const addScoring = (request: Request, layout: KvLayout, load: StepLoad, segment: number, sign: 1 | -1): void => {
  if (segment < layout.segments.length - 1) load.addSelection(sign, segment, request.progress.rowsOf(segment))
}
