/** A horizontal band of the timeline, CSS pixels from its top. */
export interface Band {
  readonly kind: "overview" | "ruler" | "device" | "time" | "queue" | "memory" | "requests"
  /** −1 where it is about all. */
  readonly replica: number
  readonly top: number
  readonly height: number
}

const gap = 6

/** Replicas that have a band of their own for the time of their steps; more share one. */
const ownTimes = 2

/** Bands one below the other; requests get what is left, and not less than a few rows. */
export const bands = (replicas: number, height: number): ReadonlyArray<Band> => {
  const isLow = height < 520
  const device = replicas <= 2 ? (isLow ? 30 : 40) : replicas <= 4 ? 24 : 14
  const made: Array<Band> = []
  let top = 0
  const add = (kind: Band["kind"], replica: number, own: number, below = gap) => {
    made.push({ kind, replica, top, height: own })
    top += own + below
  }
  add("overview", -1, isLow ? 20 : 26, 2)
  add("ruler", -1, 20, 2)
  for (let replica = 0; replica < replicas; replica++) {
    const hasTime = replicas <= ownTimes
    add("device", replica, device, hasTime || replica < replicas - 1 ? 2 : gap)
    if (hasTime) add("time", replica, isLow ? 24 : 34)
  }
  if (replicas > ownTimes) add("time", -1, isLow ? 24 : 34)
  add("queue", -1, isLow ? 28 : 36)
  add("memory", -1, isLow ? 34 : 48)
  add("requests", -1, Math.max(96, height - top), 0)
  return made
}

/** Height of the whole. */
export const bandsHeight = (all: ReadonlyArray<Band>): number => {
  const last = all.at(-1)!
  return last.top + last.height
}

export const bandAt = (all: ReadonlyArray<Band>, y: number): Band | undefined =>
  all.find((band) => y >= band.top && y < band.top + band.height)

/** A step's time on a logarithmic axis from 0.5 ms to 1 s: 0 at the bottom, 1 at the top. */
export const timeHeight = (micros: number): number => {
  const share = (Math.log10(Math.max(500, micros)) - Math.log10(500)) / (6 - Math.log10(500))
  return Math.min(1, Math.max(0, share))
}
