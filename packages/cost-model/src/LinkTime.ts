import type { LinkCurve } from "./Calibration.ts"

/** Time of an all-reduce by its bytes: linear between points, flat below the first, on the last two's line beyond. */
export class LinkTime {
  /** Whether its curve was measured on such a device, or published. */
  readonly isKnown: boolean
  readonly to: number
  private readonly bytes: Float64Array
  private readonly micros: Float64Array

  /** Requires at least one point, ascending. */
  constructor({ points, source }: LinkCurve) {
    this.bytes = Float64Array.from(points, (point) => point.bytes)
    this.micros = Float64Array.from(points, (point) => point.micros)
    this.isKnown = source !== "assumed"
    this.to = this.bytes[points.length - 1]!
  }

  microsOf(bytes: number): number {
    const { bytes: at, micros } = this
    if (bytes <= at[0]! || at.length === 1) return micros[0]!
    let i = at.length - 2
    while (at[i]! > bytes) i--
    return micros[i]! + ((bytes - at[i]!) * (micros[i + 1]! - micros[i]!)) / (at[i + 1]! - at[i]!)
  }
}
