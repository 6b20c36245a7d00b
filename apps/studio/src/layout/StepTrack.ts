import type { StepColumns } from "@uniprefill/simulator/timetravel/Timeline"
import { MaxPyramid } from "./MaxPyramid.ts"
import type { Viewport } from "./Viewport.ts"

/** What a step's time is shown as: decode, then prefill segment by segment, what failed, and steps without any rows. */
export const decodeCategory = 0
export const segmentCategory = (segment: number): number => segment + 1
export const failedCategory = (segments: number): number => segments + 1
export const emptyCategory = (segments: number): number => segments + 2
export const categoryCount = (segments: number): number => segments + 3

/** The steps of one replica, arranged so that any stretch of time is summed up without looking at each of them. */
export interface StepTrack {
  readonly replica: number
  readonly count: number
  /** Places in the run's columns. */
  readonly index: Uint32Array
  readonly start: Float64Array
  readonly end: Float64Array
  /** `sums[c][i]`: µs of category c in the steps before number i. */
  readonly sums: ReadonlyArray<Float64Array>
  readonly longest: MaxPyramid
  readonly waiting: MaxPyramid
  readonly running: MaxPyramid
  readonly used: MaxPyramid
  /** Selections before step number i. */
  readonly selections: Float64Array
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
  const segments = segmentLayers.length
  const layers = segmentLayers.reduce((sum, own) => sum + own, 0)
  const failed = failedCategory(segments)
  const index = new Uint32Array(count)
  const start = new Float64Array(count)
  const end = new Float64Array(count)
  const sums = Array.from({ length: categoryCount(segments) }, () => new Float64Array(count + 1))
  const selections = new Float64Array(count + 1)
  const micros = new Uint32Array(count)
  const waiting = new Uint32Array(count)
  const running = new Uint16Array(count)
  const used = new Uint32Array(count)
  for (let i = 0, at = 0; i < steps.count; i++) {
    if (steps.replica[i] !== replica) continue
    index[at] = i
    start[at] = steps.start[i]!
    end[at] = steps.start[i]! + steps.micros[i]!
    micros[at] = steps.micros[i]!
    waiting[at] = steps.waiting[i]!
    running[at] = steps.running[i]!
    used[at] = steps.used[i]!
    selections[at + 1] = selections[at]! + steps.selections[i]!
    const decode = steps.decodeRows[i]! * layers
    let all = decode
    for (let s = 0; s < segments; s++) all += steps.rows[s]![i]! * segmentLayers[s]!
    const isFailed = (steps.flags[i]! & 1) === 1
    const share = all === 0 || isFailed ? 0 : steps.micros[i]! / all
    const add = (category: number, own: number) => {
      const sum = sums[category]!
      sum[at + 1] = sum[at]! + own
    }
    add(decodeCategory, decode * share)
    for (let s = 0; s < segments; s++) add(segmentCategory(s), steps.rows[s]![i]! * segmentLayers[s]! * share)
    add(failed, isFailed ? steps.micros[i]! : 0)
    add(emptyCategory(segments), all === 0 && !isFailed ? steps.micros[i]! : 0)
    at++
  }
  return {
    replica,
    count,
    index,
    start,
    end,
    sums,
    selections,
    longest: new MaxPyramid(micros),
    waiting: new MaxPyramid(waiting),
    running: new MaxPyramid(running),
    used: new MaxPyramid(used),
  }
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
  const { sums, start, end, count } = track
  const first = new Int32Array(width + 1)
  const shares = sums.map(() => new Float32Array(width))
  const perPixel = (to - from) / width
  const before = new Float64Array(sums.length)
  for (let x = 0, at = 0; x <= width; x++) {
    const time = from + x * perPixel
    at = firstEndingAfter(track, time, at)
    first[x] = at
    // The part of the step in progress that has passed.
    const part = at < count && start[at]! < time ? (time - start[at]!) / (end[at]! - start[at]!) : 0
    for (let c = 0; c < sums.length; c++) {
      const sum = sums[c]!
      const passed = part === 0 ? sum[at]! : sum[at]! + part * (sum[at + 1]! - sum[at]!)
      if (x > 0) shares[c]![x - 1] = Math.min(1, (passed - before[c]!) / perPixel)
      before[c] = passed
    }
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
