import type { StepColumns } from "@uniprefill/simulator/timetravel/Timeline"
import { type MaxPyramid, maxPyramid } from "./MaxPyramid.ts"
import type { Viewport } from "./Viewport.ts"

/** What a step's time is shown as: decode, then prefill segment by segment, what failed, and steps without any rows. */
export const decodeCategory = 0
export const segmentCategory = (segment: number): number => segment + 1
export const failedCategory = (segments: number): number => segments + 1
export const emptyCategory = (segments: number): number => segments + 2
export const categoryCount = (segments: number): number => segments + 3

/** Steps between two places at which sums are kept: those in between are added up when they are asked for. */
const block = 16

/** The steps of one replica, arranged so that any stretch of time is summed up without looking at each of them. Plain data. */
export interface StepTrack {
  readonly replica: number
  readonly count: number
  /** Places in the run's columns. */
  readonly index: Uint32Array
  readonly start: Float64Array
  readonly end: Float64Array
  /** µs of each category in the steps before number `b · block`, category after category, for every b. */
  readonly sums: Float64Array
  readonly longest: MaxPyramid
  readonly waiting: MaxPyramid
  readonly running: MaxPyramid
  /** Selections before step number i. */
  readonly selections: Uint32Array
  readonly steps: StepColumns
  readonly segmentLayers: ReadonlyArray<number>
}

/**
 * A track for each replica. A step's time is divided by rows × layers: a decode row passes every layer, a prefill row those of
 * its segment. (What each part really takes is shown step by step.)
 */
export const stepTracks = (
  steps: StepColumns,
  replicas: number,
  segmentLayers: ReadonlyArray<number>,
): ReadonlyArray<StepTrack> => {
  const counts = new Array<number>(replicas).fill(0)
  for (let i = 0; i < steps.count; i++) counts[steps.replica[i]!]!++
  return counts.map((count, replica) => stepTrack(steps, replica, count, segmentLayers))
}

const stepTrack = (
  steps: StepColumns,
  replica: number,
  count: number,
  segmentLayers: ReadonlyArray<number>,
): StepTrack => {
  const index = new Uint32Array(count)
  const start = new Float64Array(count)
  const end = new Float64Array(count)
  const selections = new Uint32Array(count + 1)
  const categories = categoryCount(segmentLayers.length)
  const sums = new Float64Array((Math.floor(count / block) + 1) * categories)
  const passed = new Float64Array(categories)
  for (let i = 0, at = 0; i < steps.count; i++) {
    if (steps.replica[i] !== replica) continue
    if (at % block === 0) sums.set(passed, (at / block) * categories)
    index[at] = i
    start[at] = steps.start[i]!
    end[at] = steps.start[i]! + steps.micros[i]!
    selections[at + 1] = selections[at]! + steps.selections[i]!
    addStep(steps, segmentLayers, i, 1, passed)
    at++
  }
  if (count % block === 0) sums.set(passed, (count / block) * categories)
  return {
    replica,
    count,
    index,
    start,
    end,
    sums,
    selections,
    longest: maxPyramid(taken(steps.micros, index)),
    waiting: maxPyramid(taken(steps.waiting, index)),
    running: maxPyramid(taken(steps.running, index)),
    steps,
    segmentLayers,
  }
}

/** The values of a column at some places. (Typed arrays' own `from` takes ten times as long.) */
const taken = (column: Uint32Array | Uint16Array, index: Uint32Array): Uint32Array => {
  const out = new Uint32Array(index.length)
  for (let at = 0; at < index.length; at++) out[at] = column[index[at]!]!
  return out
}

/** Adds `part` of a step's time to the categories that it goes to. */
const addStep = (
  { decodeRows, items, rows, micros, flags }: StepColumns,
  segmentLayers: ReadonlyArray<number>,
  i: number,
  part: number,
  out: Float64Array,
): void => {
  const segments = segmentLayers.length
  const time = micros[i]! * part
  if ((flags[i]! & 1) === 1) {
    out[failedCategory(segments)]! += time
    return
  }
  // Most steps: their rows need not be looked at.
  if (items[i] === 0) {
    out[decodeRows[i] === 0 ? emptyCategory(segments) : decodeCategory]! += time
    return
  }
  let layers = 0
  let all = 0
  for (let s = 0; s < segments; s++) {
    layers += segmentLayers[s]!
    all += rows[s]![i]! * segmentLayers[s]!
  }
  const decode = decodeRows[i]! * layers
  all += decode
  if (all === 0) {
    out[emptyCategory(segments)]! += time
    return
  }
  out[decodeCategory]! += (decode / all) * time
  for (let s = 0; s < segments; s++) out[segmentCategory(s)]! += ((rows[s]![i]! * segmentLayers[s]!) / all) * time
}

/** µs of every category up to a time that lies in step number `at` or before it, into `out`. */
const passedBy = (
  { sums, start, end, index, steps, segmentLayers }: StepTrack,
  at: number,
  time: number,
  out: Float64Array,
): void => {
  const first = Math.floor(at / block)
  for (let c = 0; c < out.length; c++) out[c] = sums[first * out.length + c]!
  for (let before = first * block; before < at; before++) addStep(steps, segmentLayers, index[before]!, 1, out)
  // The part of the step in progress that has passed.
  if (at < index.length && start[at]! < time)
    addStep(steps, segmentLayers, index[at]!, (time - start[at]!) / (end[at]! - start[at]!), out)
}

/** The first step, from `from` on, that ends after `time`. */
export const firstEndingAfter = ({ end, count }: StepTrack, time: number, from = 0): number => {
  let low = from
  let high = count
  while (low < high) {
    const middle = (low + high) >>> 1
    if (end[middle]! <= time) low = middle + 1
    else high = middle
  }
  return low
}

/** For every pixel of a view: the steps that run in it, and the share of its time that each category takes. */
export interface StepPixels {
  /** The first step of pixel x is `first[x]`; the last one of pixel x is in `first[x + 1]` or before it. */
  readonly first: Int32Array
  /** `shares[c][x]`, 0 … 1. */
  readonly shares: ReadonlyArray<Float32Array>
}

export const stepPixels = (track: StepTrack, { from, to }: Viewport, width: number): StepPixels => {
  const categories = categoryCount(track.segmentLayers.length)
  const first = new Int32Array(width + 1)
  const shares = Array.from({ length: categories }, () => new Float32Array(width))
  const perPixel = (to - from) / width
  let before = new Float64Array(categories)
  let passed = new Float64Array(categories)
  for (let x = 0, at = 0; x <= width; x++) {
    const time = from + x * perPixel
    at = firstEndingAfter(track, time, at)
    first[x] = at
    passedBy(track, at, time, passed)
    if (x > 0)
      for (let c = 0; c < categories; c++) shares[c]![x - 1] = Math.min(1, (passed[c]! - before[c]!) / perPixel)
    const spare = before
    before = passed
    passed = spare
  }
  return { first, shares }
}

/** Steps that run in pixel x: from the first to, not including, the second. */
export const stepsAt = ({ first }: StepPixels, track: StepTrack, view: Viewport, width: number, x: number) => {
  const low = first[x]!
  const next = first[x + 1]!
  const until = view.from + ((x + 1) / width) * (view.to - view.from)
  const high = next < track.count && track.start[next]! < until ? next + 1 : next
  return [low, Math.max(low, high)] as const
}

/** The step that runs at a time, or the nearest one; −1 where there is none. */
export const stepNear = (track: StepTrack, time: number): number => {
  if (track.count === 0) return -1
  const at = Math.min(track.count - 1, firstEndingAfter(track, time))
  if (at > 0 && track.start[at]! > time && time - track.end[at - 1]! < track.start[at]! - time) return at - 1
  return at
}
