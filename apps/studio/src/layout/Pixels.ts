/** A picture as 32-bit pixels (bytes R, G, B, A in memory), painted without a canvas. */
export class Pixels {
  readonly width: number
  readonly height: number
  readonly data: Uint32Array

  constructor(width: number, height: number) {
    this.width = width
    this.height = height
    this.data = new Uint32Array(width * height)
  }

  /** Fills a rectangle; what lies outside is cut off. Edges are rounded to whole pixels. */
  rect(x0: number, y0: number, x1: number, y1: number, colour: number): void {
    const left = Math.max(0, Math.round(x0))
    const right = Math.min(this.width, Math.round(x1))
    const top = Math.max(0, Math.round(y0))
    const bottom = Math.min(this.height, Math.round(y1))
    if (right <= left) return
    for (let y = top, row = top * this.width; y < bottom; y++, row += this.width) {
      this.data.fill(colour, row + left, row + right)
    }
  }

  /** Fills part of one column. */
  column(x: number, y0: number, y1: number, colour: number): void {
    const top = Math.max(0, Math.round(y0))
    const bottom = Math.min(this.height, Math.round(y1))
    for (let y = top, at = top * this.width + x; y < bottom; y++, at += this.width) this.data[at] = colour
  }

  /** Columns of stacked shares, the first at the bottom, in a band. */
  stacked(top: number, height: number, shares: ReadonlyArray<Float32Array>, colours: ReadonlyArray<number>): void {
    const { width } = this
    for (let x = 0; x < width; x++) {
      let sum = 0
      let below = top + height
      for (let c = 0; c < shares.length; c++) {
        const share = shares[c]![x]!
        if (share === 0) continue
        sum += share
        const above = top + height - Math.min(1, sum) * height
        this.column(x, above, below, colours[c]!)
        below = above
      }
    }
  }
}

/** `#rrggbb` as a pixel. */
export const pixelOf = (colour: string, alpha = 1): number => {
  const value = Number.parseInt(colour.slice(1), 16)
  const [red, green, blue] = [(value >> 16) & 255, (value >> 8) & 255, value & 255]
  return ((Math.round(alpha * 255) << 24) | (blue << 16) | (green << 8) | red) >>> 0
}
