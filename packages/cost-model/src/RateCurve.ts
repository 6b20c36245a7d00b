import type { RatePoint } from "./Calibration.ts"

/** A measured rate as a function of size, in FLOP per µs: linear between points, constant beyond the ends. */
export class RateCurve {
  readonly from: number
  readonly to: number
  private readonly at: Float64Array
  private readonly rate: Float64Array
  private readonly slope: Float64Array

  /** Requires at least one point, ascending. */
  constructor(points: ReadonlyArray<RatePoint>) {
    this.at = Float64Array.from(points, (point) => point.at)
    this.rate = Float64Array.from(points, (point) => point.teraFlops * 1e6)
    this.slope = new Float64Array(points.length)
    for (let i = 0; i + 1 < points.length; i++) {
      this.slope[i] = (this.rate[i + 1]! - this.rate[i]!) / (this.at[i + 1]! - this.at[i]!)
    }
    this.from = this.at[0]!
    this.to = this.at[points.length - 1]!
  }

  flopsPerMicro(size: number): number {
    const { at, rate } = this
    if (size <= this.from) return rate[0]!
    let i = at.length - 1
    while (at[i]! > size) i--
    return rate[i]! + this.slope[i]! * (size - at[i]!)
  }

  /** Whether the curve was measured at this size. */
  covers(size: number): boolean {
    return size >= this.from && size <= this.to
  }
}
