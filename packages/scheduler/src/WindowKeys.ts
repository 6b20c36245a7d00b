/**
 * Keys that decode rows see within a window, summed over rows whose number of keys grows by one a step: min(window, keys)
 * each. Joining, leaving and a step cost the same however many rows there are.
 */
export class WindowKeys {
  sum = 0
  /** Rows that have not yet filled the window. */
  private growing = 0
  private step = 0
  private readonly window: number
  /** How many fill it at a step to come, by step modulo window + 1; made when the first row joins. */
  private filling = new Int32Array(0)

  constructor(window: number) {
    this.window = window
  }

  join(keys: number): void {
    this.change(1, keys)
  }

  /** `keys`: as many as it has by now. */
  leave(keys: number): void {
    this.change(-1, keys)
  }

  /** Every row sees one key more. */
  advance(): void {
    if (this.growing === 0) return void this.step++
    const { filling } = this
    this.sum += this.growing
    const at = ++this.step % filling.length
    this.growing -= filling[at]!
    filling[at] = 0
  }

  private change(sign: 1 | -1, keys: number): void {
    const { window } = this
    if (keys >= window) {
      this.sum += sign * window
      return
    }
    if (this.filling.length === 0) this.filling = new Int32Array(window + 1)
    this.sum += sign * keys
    this.growing += sign
    this.filling[(this.step + window - keys) % this.filling.length]! += sign
  }
}
