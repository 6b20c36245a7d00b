/** A measured number as a function of size: linear between points, constant beyond the ends. */
export class Curve {
  readonly from: number
  readonly to: number
  private readonly sizes: Float64Array
  private readonly values: Float64Array
  private readonly slopes: Float64Array

  /** Requires at least one point, ascending. */
  constructor(points: ReadonlyArray<readonly [size: number, value: number]>) {
    this.sizes = Float64Array.from(points, ([size]) => size)
    this.values = Float64Array.from(points, ([, value]) => value)
    this.slopes = new Float64Array(points.length)
    for (let i = 0; i + 1 < points.length; i++) {
      this.slopes[i] = (this.values[i + 1]! - this.values[i]!) / (this.sizes[i + 1]! - this.sizes[i]!)
    }
    this.from = this.sizes[0]!
    this.to = this.sizes[points.length - 1]!
  }

  at(size: number): number {
    const { sizes, values } = this
    if (size <= this.from) return values[0]!
    let i = sizes.length - 1
    while (sizes[i]! > size) i--
    return values[i]! + this.slopes[i]! * (size - sizes[i]!)
  }

  /** Whether the curve was measured at this size. */
  covers(size: number): boolean {
    return size >= this.from && size <= this.to
  }
}
