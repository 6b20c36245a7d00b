import { Random } from "@uniprefill/units/Random"

/** Spreads arrivals that lie on ticks where it is asked for; what was done, in a sentence, or nothing. */
export const spreadArrivals = (
  arrivals: Float64Array,
  { seed, spread }: { readonly seed: number; readonly spread: boolean },
): ReadonlyArray<string> => {
  const tick = spread ? spreadTicks(arrivals, new Random(seed, "ticks")) : 0
  return tick > 0 ? [`arrivals logged in ticks of ${tick / 1e6} s are spread inside them (seed ${seed})`] : []
}

/**
 * Spreads arrivals that a log has rounded down to ticks: those of one tick are drawn uniformly from it, in order. The tick is
 * the most frequent distance between different times; a shorter distance to the next time bounds the draw.
 *
 * Returns the tick, or 0 and changes nothing when fewer than half of the rows share their time with another.
 */
export const spreadTicks = (arrivals: Float64Array, random: Random): number => {
  const starts: Array<number> = []
  for (let i = 0; i < arrivals.length; i++) if (i === 0 || arrivals[i] !== arrivals[i - 1]) starts.push(i)
  if (arrivals.length === 0 || starts.length * 2 > arrivals.length) return 0
  const counts = new Map<number, number>()
  for (let s = 1; s < starts.length; s++) {
    const gap = arrivals[starts[s]!]! - arrivals[starts[s - 1]!]!
    counts.set(gap, (counts.get(gap) ?? 0) + 1)
  }
  let tick = 0
  for (const [gap, count] of counts) if (count > (counts.get(tick) ?? 0)) tick = gap
  if (tick === 0) return 0
  for (let s = 0; s < starts.length; s++) {
    const first = starts[s]!
    const end = starts[s + 1] ?? arrivals.length
    const start = arrivals[first]!
    const width = Math.min(tick, (end < arrivals.length ? arrivals[end]! : start + tick) - start)
    const drawn = Float64Array.from({ length: end - first }, () => random.below(width)).sort()
    for (let i = 0; i < drawn.length; i++) arrivals[first + i] = start + drawn[i]!
  }
  return tick
}
