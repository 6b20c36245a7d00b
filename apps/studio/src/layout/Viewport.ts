/** The part of time that is shown, µs. */
export interface Viewport {
  readonly from: number
  readonly to: number
}

/** The least time across the whole width. */
export const leastSpan = 500

/** A viewport that lies within `bounds` and shows at least {@link leastSpan}. */
export const clamped = ({ from, to }: Viewport, bounds: Viewport): Viewport => {
  const whole = Math.max(leastSpan, bounds.to - bounds.from)
  const span = Math.min(whole, Math.max(leastSpan, to - from))
  const begin = Math.min(Math.max(bounds.from, from), bounds.from + whole - span)
  return { from: begin, to: begin + span }
}

/** Shows `factor` times as much time; what is at `anchor` stays where it is. */
export const zoomed = (view: Viewport, factor: number, anchor: number, bounds: Viewport): Viewport => {
  const least = leastSpan / (view.to - view.from)
  const most = (bounds.to - bounds.from) / (view.to - view.from)
  const by = Math.min(Math.max(factor, least), Math.max(most, least))
  return clamped({ from: anchor - (anchor - view.from) * by, to: anchor + (view.to - anchor) * by }, bounds)
}

export const panned = ({ from, to }: Viewport, by: number, bounds: Viewport): Viewport =>
  clamped({ from: from + by, to: to + by }, bounds)

/** The viewport moved, as little as can be, so that a stretch of time is in its middle part. */
export const revealing = (view: Viewport, from: number, to: number, bounds: Viewport): Viewport => {
  const margin = (view.to - view.from) * 0.1
  if (from >= view.from + margin && to <= view.to - margin) return view
  const span = Math.max(view.to - view.from, (to - from) * 1.5)
  const middle = (from + to) / 2
  return clamped({ from: middle - span / 2, to: middle + span / 2 }, bounds)
}

export const xOf = ({ from, to }: Viewport, width: number, time: number): number =>
  ((time - from) / (to - from)) * width

export const timeAt = ({ from, to }: Viewport, width: number, x: number): number => from + (x / width) * (to - from)
