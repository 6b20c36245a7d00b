import type { MemoryColumns } from "@uniprefill/simulator/timetravel/Timeline"
import type { Viewport } from "./Viewport.ts"

/** What memory is shown as. */
export interface MemoryTrack {
  readonly names: ReadonlyArray<string>
  /** Of all replicas. */
  readonly total: number
  /** By replica: times of its samples, and `values[class][sample]`. */
  readonly replicas: ReadonlyArray<{ readonly time: Float64Array; readonly values: ReadonlyArray<Float64Array> }>
}

/** Tables of one segment are one class, and so are all carries; shared and idle prefixes are two more. */
export const memoryTrack = (
  memory: MemoryColumns,
  names: ReadonlyArray<string>,
  replicas: number,
  slabs: number,
): MemoryTrack => {
  const classOf = names.map((name) => (name.startsWith("carry") ? "carry" : name.replace(/ (full|sliding)$/, "")))
  const classes = [...new Set(classOf)]
  const counts = new Array<number>(replicas).fill(0)
  for (let i = 0; i < memory.count; i++) counts[memory.replica[i]!]!++
  const tracks = counts.map((count) => ({
    time: new Float64Array(count),
    values: classes.map(() => new Float64Array(count)),
  }))
  const filled = new Array<number>(replicas).fill(0)
  for (let i = 0; i < memory.count; i++) {
    const replica = memory.replica[i]!
    const at = filled[replica]!++
    const track = tracks[replica]!
    track.time[at] = memory.time[i]!
    for (const [t, name] of classOf.entries()) track.values[classes.indexOf(name)]![at]! += memory.slabs[t]![i]!
  }
  return { names: classes, total: slabs * replicas, replicas: tracks }
}

/** Share of the memory by class at every pixel: `[class][x]`, all replicas together, as last sampled. */
export const memoryPixels = (
  track: MemoryTrack,
  { from, to }: Viewport,
  width: number,
): ReadonlyArray<Float32Array> => {
  const shares = track.names.map(() => new Float32Array(width))
  for (const { time, values } of track.replicas) {
    let at = -1
    for (let x = 0; x < width; x++) {
      const until = from + ((x + 1) / width) * (to - from)
      at = lastUpTo(time, until, at)
      if (at < 0) continue
      for (let c = 0; c < values.length; c++) shares[c]![x]! += values[c]![at]! / track.total
    }
  }
  return shares
}

/** The last sample at or before a time, looked for from `from` on; −1 for none. */
const lastUpTo = (time: Float64Array, until: number, from: number): number => {
  let low = Math.max(0, from)
  let high = time.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (time[middle]! <= until) low = middle + 1
    else high = middle
  }
  return low - 1
}
