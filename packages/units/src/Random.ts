import { ln, exp } from "./Elementary.ts"

/**
 * A seeded generator (sfc32). One stream per subsystem, named, so that a new draw in one shifts no other.
 */
export class Random {
  private a: number
  private b: number
  private c: number
  private counter = 1
  /** The second of a pair of normal numbers, kept for the next call. */
  private spare = Number.NaN

  constructor(seed: number, stream: string) {
    this.a = seed | 0
    this.b = Math.floor(seed / 0x1_0000_0000) | 0
    this.c = hashText(stream)
    for (let i = 0; i < 12; i++) this.word()
  }

  /** 32 random bits, as an unsigned integer. */
  word(): number {
    const sum = (this.a + this.b + this.counter++) | 0
    this.a = this.b ^ (this.b >>> 9)
    this.b = (this.c + (this.c << 3)) | 0
    this.c = ((this.c << 21) | (this.c >>> 11)) + sum
    return sum >>> 0
  }

  /** In [0, 1), 53 bits. */
  unit(): number {
    return ((this.word() >>> 5) * 0x400_0000 + (this.word() >>> 6)) / 0x20_0000_0000_0000
  }

  /** In [0, limit). */
  below(limit: number): number {
    return Math.floor(this.unit() * limit)
  }

  /** From `low` to `high`, both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1)
  }

  /** Mean 1. */
  exponential(): number {
    return -ln(1 - this.unit())
  }

  /** Mean 0, variance 1: the polar method. */
  normal(): number {
    if (!Number.isNaN(this.spare)) {
      const { spare } = this
      this.spare = Number.NaN
      return spare
    }
    for (;;) {
      const x = 2 * this.unit() - 1
      const y = 2 * this.unit() - 1
      const square = x * x + y * y
      if (square >= 1 || square === 0) continue
      const factor = Math.sqrt((-2 * ln(square)) / square)
      this.spare = y * factor
      return x * factor
    }
  }

  /** Shape > 0, scale 1: Marsaglia and Tsang, 2000. */
  gamma(shape: number): number {
    if (shape < 1) return this.gamma(shape + 1) * exp(ln(1 - this.unit()) / shape)
    const d = shape - 1 / 3
    const c = 1 / Math.sqrt(9 * d)
    for (;;) {
      const x = this.normal()
      const root = 1 + c * x
      if (root <= 0) continue
      const v = root * root * root
      if (ln(1 - this.unit()) < 0.5 * x * x + d - d * v + d * ln(v)) return d * v
    }
  }

  /** Shape > 0, scale 1. */
  weibull(shape: number): number {
    return exp(ln(this.exponential()) / shape)
  }
}

/** FNV-1a. */
export const hashText = (text: string): number => {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  return hash | 0
}
