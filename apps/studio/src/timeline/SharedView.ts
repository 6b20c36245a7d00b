import { clamped, panned, revealing, type Viewport, zoomed } from "../layout/Viewport.ts"

/** The part of time that one or more pictures show together. */
export class SharedView {
  bounds: Viewport = { from: 0, to: 1000 }
  private shown: Viewport = { from: 0, to: 1000 }
  private readonly listeners = new Set<() => void>()

  get view(): Viewport {
    return this.shown
  }

  /** Shows all of it, from begin to end. */
  open(bounds: Viewport): void {
    this.bounds = bounds
    this.show(bounds)
  }

  show(view: Viewport): void {
    this.shown = clamped(view, this.bounds)
    for (const listener of this.listeners) listener()
  }

  zoom(factor: number, anchor = (this.shown.from + this.shown.to) / 2): void {
    this.show(zoomed(this.shown, factor, anchor, this.bounds))
  }

  /** By a share of what is shown. */
  pan(share: number): void {
    this.show(panned(this.shown, share * (this.shown.to - this.shown.from), this.bounds))
  }

  reveal(from: number, to: number): void {
    this.show(revealing(this.shown, from, to, this.bounds))
  }

  subscribe(listener: () => void): () => void {
    this.listeners.add(listener)
    return () => this.listeners.delete(listener)
  }
}
