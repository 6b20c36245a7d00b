/**
 * Counts of integer µs in buckets of at most 0.1% width: exact below 2,048 µs, then 1,024 buckets to each doubling. Bounded
 * whatever the number of values; mean and maximum are exact.
 */
export class GapHistogram {
  count = 0
  sum = 0
  sumOfSquares = 0
  max = 0
  private readonly buckets = new Float64Array(2048 + 21 * 1024)

  add(micros: number, weight: number): void {
    this.count += weight
    this.sum += micros * weight
    this.sumOfSquares += micros * micros * weight
    if (micros > this.max) this.max = micros
    this.buckets[bucketOf(micros)]! += weight
  }

  get mean(): number {
    return this.count === 0 ? Number.NaN : this.sum / this.count
  }

  /** Standard deviation. */
  get std(): number {
    return this.count === 0
      ? Number.NaN
      : Math.sqrt(Math.max(0, this.sumOfSquares / this.count - this.mean * this.mean))
  }

  /** The value below which a share `p` of the counts lies; NaN without counts. */
  percentile(p: number): number {
    if (this.count === 0) return Number.NaN
    let left = p * this.count
    for (let i = 0; i < this.buckets.length; i++) {
      left -= this.buckets[i]!
      if (left <= 0 && this.buckets[i]! > 0) return Math.min(this.max, middleOf(i))
    }
    return this.max
  }

  /** `[upper end in µs, share of the counts at or below it]` for every bucket that holds something. */
  distribution(): Array<[number, number]> {
    const points: Array<[number, number]> = []
    let below = 0
    for (let i = 0; i < this.buckets.length; i++) {
      if (this.buckets[i] === 0) continue
      below += this.buckets[i]!
      points.push([middleOf(i), below / this.count])
    }
    return points
  }
}

const bucketOf = (micros: number): number => {
  if (micros < 2048) return micros
  const clamped = Math.min(micros, 0xffff_ffff)
  const shift = 21 - Math.clz32(clamped)
  return 2048 + (shift - 1) * 1024 + ((clamped >>> shift) - 1024)
}

const middleOf = (bucket: number): number => {
  if (bucket < 2048) return bucket
  const shift = Math.floor((bucket - 2048) / 1024) + 1
  const mantissa = ((bucket - 2048) % 1024) + 1024
  return mantissa * 2 ** shift + 2 ** (shift - 1)
}
