/** The one owner of the animation frame: whatever is to be painted again is painted once in the next one. */
class FrameLoop {
  private readonly dirty = new Set<() => void>()
  private scheduled = false

  request(paint: () => void): void {
    this.dirty.add(paint)
    if (this.scheduled) return
    this.scheduled = true
    requestAnimationFrame(() => this.run())
  }

  /** Paints no more what was asked for and is gone by now. */
  cancel(paint: () => void): void {
    this.dirty.delete(paint)
  }

  private run(): void {
    this.scheduled = false
    const paints = [...this.dirty]
    this.dirty.clear()
    for (const paint of paints) paint()
  }
}

export const frames = new FrameLoop()
