import { bands, bandAt, type Band } from "../layout/Bands.ts"
import type { Theme } from "../layout/Colours.ts"
import { Pixels } from "../layout/Pixels.ts"
import {
  type Grouping,
  requestOrder,
  type RequestOrder,
  rowsInView,
  sampled,
  type Sorting,
} from "../layout/RequestRows.ts"
import { statusNames } from "../layout/StatusNames.ts"
import { timeAt } from "../layout/Viewport.ts"
import { hitLines } from "./Describe.ts"
import { frames } from "./FrameLoop.ts"
import { type Hit, hitAt } from "./Hit.ts"
import { drawOverlay } from "./Overlay.ts"
import { paint, type Scene } from "./Painter.ts"
import type { RunModel } from "./RunModel.ts"
import type { SharedView } from "./SharedView.ts"

export interface RowChoice {
  readonly sorting: Sorting
  readonly grouping: Grouping
  /** Only requests that do anything in the part of time that is shown. */
  readonly onlyInView: boolean
}

export interface ControllerEvents {
  readonly picked: (hit: Hit) => void
  /** What is under the pointer, in words, and where; null for nothing. */
  readonly hovered: (lines: ReadonlyArray<string> | null, x: number, y: number) => void
}

/** Rows of requests, CSS pixels. */
const leastRow = 3
const mostRow = 16

/** A pointer that moves less than this between down and up has picked, CSS pixels. */
const stillness = 4

/** Device pixels for one of CSS at most: more cannot be seen and costs time. */
const mostScale = 2

/** The picture of a run: keeps it painted as its view, size and selection change, and takes what pointers do. */
export class Controller {
  private readonly base: HTMLCanvasElement
  private readonly over: HTMLCanvasElement
  private readonly view: SharedView
  private readonly events: ControllerEvents
  private model: RunModel
  private theme: Theme
  private order: RequestOrder
  private groups = new Map<number, string>()
  private choice: RowChoice = { sorting: "arrival", grouping: "none", onlyInView: true }
  private width = 0
  private height = 0
  private pixels = new Pixels(1, 1)
  private image = new ImageData(1, 1)
  private scene: Scene | null = null
  private scroll = 0
  private selectedStep = -1
  private selectedRequest = -1
  private pointerX = -1
  private readonly pointers = new Map<number, { x: number; y: number }>()
  private moved = 0
  private dragsOverview = false
  private readonly unsubscribe: () => void
  private readonly repaint = (): void => this.paint()

  constructor(
    base: HTMLCanvasElement,
    over: HTMLCanvasElement,
    model: RunModel,
    theme: Theme,
    view: SharedView,
    events: ControllerEvents,
  ) {
    this.base = base
    this.over = over
    this.model = model
    this.theme = theme
    this.view = view
    this.events = events
    this.order = requestOrder(model.index, "arrival", "none", statusNames)
    this.unsubscribe = view.subscribe(() => this.request())
  }

  dispose(): void {
    this.unsubscribe()
    frames.cancel(this.repaint)
  }

  request(): void {
    frames.request(this.repaint)
  }

  resize(width: number, height: number): void {
    this.width = Math.max(50, Math.floor(width))
    this.height = Math.max(50, Math.floor(height))
    this.request()
  }

  setTheme(theme: Theme): void {
    this.theme = theme
    this.request()
  }

  select(step: number, request: number): void {
    this.selectedStep = step
    this.selectedRequest = request
    this.request()
  }

  arrange(choice: RowChoice): void {
    this.choice = choice
    this.order = requestOrder(this.model.index, choice.sorting, choice.grouping, statusNames)
    this.groups = new Map()
    for (const { label, first, count } of this.order.groups)
      for (let i = first; i < first + count; i++) this.groups.set(this.order.rows[i]!, `${label} (${count})`)
    this.scroll = 0
    this.request()
  }

  /** The request next to the selected one in the picture; −1 for none. */
  neighbour(by: number): number {
    const rows = this.rows()
    if (rows.length === 0) return -1
    const at = rows.indexOf(this.selectedRequest)
    const next = at < 0 ? 0 : Math.min(rows.length - 1, Math.max(0, at + by))
    this.revealRow(next)
    return rows[next]!
  }

  /** The picture as a file. */
  async picture(): Promise<Blob> {
    this.paint()
    const whole = document.createElement("canvas")
    whole.width = this.base.width
    whole.height = this.base.height
    const context = whole.getContext("2d")!
    context.drawImage(this.base, 0, 0)
    context.drawImage(this.over, 0, 0)
    return new Promise((resolve, reject) => {
      whole.toBlob(
        (blob) => (blob === null ? reject(new Error("no picture could be made")) : resolve(blob)),
        "image/png",
      )
    })
  }

  // ------------------------------------------------------------------------------------------------- pointers

  pointerDown(id: number, x: number, y: number): void {
    this.pointers.set(id, { x, y })
    if (this.pointers.size > 1) return
    this.moved = 0
    this.dragsOverview = this.bandOf(y)?.kind === "overview"
    if (this.dragsOverview) this.centreAt(x)
  }

  pointerMove(id: number, x: number, y: number): void {
    const before = this.pointers.get(id)
    if (before === undefined) return this.hover(x, y)
    this.moved += Math.abs(x - before.x) + Math.abs(y - before.y)
    if (this.pointers.size === 2) this.pinch(id, x, before.x)
    else if (this.dragsOverview) this.centreAt(x)
    else if (this.moved > stillness) {
      this.view.pan((before.x - x) / this.width)
      this.scrollBy(before.y - y)
    }
    this.pointers.set(id, { x, y })
  }

  pointerUp(id: number, x: number, y: number): void {
    if (!this.pointers.delete(id) || this.pointers.size > 0) return
    if (this.moved <= stillness && !this.dragsOverview && this.scene !== null)
      this.events.picked(hitAt(this.scene, this.width, x, y))
  }

  pointerGone(id: number): void {
    this.pointers.delete(id)
    this.pointerX = -1
    this.events.hovered(null, 0, 0)
    this.request()
  }

  /** A wheel zooms over the steps and scrolls over the requests; sideways, or with shift, it pans. */
  wheel(x: number, y: number, dx: number, dy: number, zooms: boolean, pans: boolean): void {
    const [along, across] = pans && dx === 0 ? [dy, 0] : [dx, dy]
    const isOverRows = this.bandOf(y)?.kind === "requests" && this.canScroll()
    if (Math.abs(along) > Math.abs(across)) this.view.pan(along / this.width)
    else if (isOverRows && !zooms) this.scrollBy(across)
    else this.view.zoom(Math.exp(across * (zooms ? 0.01 : 0.0022)), timeAt(this.view.view, this.width, x))
    this.hover(x, y)
  }

  private pinch(id: number, x: number, before: number): void {
    const other = [...this.pointers].find(([key]) => key !== id)![1].x
    const [was, is] = [Math.abs(before - other), Math.abs(x - other)]
    if (was < 8 || is < 8) return
    this.view.zoom(was / is, timeAt(this.view.view, this.width, other))
  }

  private hover(x: number, y: number): void {
    this.pointerX = x
    const hit = this.scene === null ? ({ kind: "none" } as const) : hitAt(this.scene, this.width, x, y)
    const lines = hitLines(this.model, hit)
    this.events.hovered(lines.length === 0 ? null : lines, x, y)
    this.request()
  }

  private centreAt(x: number): void {
    const { view, bounds } = this.view
    const time = timeAt(bounds, this.width, x)
    const span = view.to - view.from
    this.view.show({ from: time - span / 2, to: time + span / 2 })
  }

  private bandOf(y: number): Band | undefined {
    return this.scene === null ? undefined : bandAt(this.scene.bands, y)
  }

  // ------------------------------------------------------------------------------------------------- requests

  /** Requests in the picture: where only those in view are wanted, as many of them as there are lines. */
  private rows(): Uint32Array {
    if (!this.choice.onlyInView) return this.order.rows
    const inView = rowsInView(this.order, this.model.index, this.view.view)
    return sampled(inView, Math.floor(this.requestBand().height), this.selectedRequest)
  }

  private requestBand(): Band {
    return bands(this.model.tracks.length, this.height).at(-1)!
  }

  private rowHeight(rows: number): number {
    const fitting = this.requestBand().height / Math.max(1, rows)
    return Math.min(mostRow, this.choice.onlyInView ? fitting : Math.max(leastRow, fitting))
  }

  private canScroll(): boolean {
    const rows = this.rows().length
    return rows * this.rowHeight(rows) > this.requestBand().height + 1
  }

  private scrollBy(pixels: number): void {
    const rows = this.rows().length
    const most = Math.max(0, rows * this.rowHeight(rows) - this.requestBand().height)
    this.scroll = Math.min(most, Math.max(0, this.scroll + pixels))
    this.request()
  }

  private revealRow(at: number): void {
    const rows = this.rows().length
    const own = this.rowHeight(rows)
    const { height } = this.requestBand()
    if (at * own < this.scroll) this.scroll = at * own
    if ((at + 1) * own > this.scroll + height) this.scroll = (at + 1) * own - height
  }

  // ------------------------------------------------------------------------------------------------- painting

  private paint(): void {
    if (this.width === 0) return
    const scale = Math.min(mostScale, window.devicePixelRatio || 1)
    const [wide, high] = [Math.round(this.width * scale), Math.round(this.height * scale)]
    this.fit(wide, high)
    const rows = this.rows()
    const rowHeight = this.rowHeight(rows.length)
    this.scroll = Math.min(this.scroll, Math.max(0, rows.length * rowHeight - this.requestBand().height))
    const scene: Scene = {
      model: this.model,
      view: this.view.view,
      bands: bands(this.model.tracks.length, this.height),
      theme: this.theme,
      scale,
      rows,
      rowHeight: rowHeight * scale,
      scroll: this.scroll * scale,
      selectedRequest: this.selectedRequest,
    }
    this.scene = scene
    paint(this.pixels, scene)
    this.base.getContext("2d", { alpha: false })!.putImageData(this.image, 0, 0)
    const context = this.over.getContext("2d")!
    context.setTransform(scale, 0, 0, scale, 0, 0)
    drawOverlay(context, scene, this.width, {
      selectedStep: this.selectedStep,
      pointerX: this.pointerX,
      order: this.order,
      groupOf: (row) => this.groups.get(row) ?? "",
    })
  }

  private fit(wide: number, high: number): void {
    if (this.pixels.width === wide && this.pixels.height === high) return
    this.pixels = new Pixels(wide, high)
    this.image = new ImageData(new Uint8ClampedArray(this.pixels.data.buffer as ArrayBuffer), wide, high)
    for (const canvas of [this.base, this.over]) {
      canvas.width = wide
      canvas.height = high
    }
  }
}
