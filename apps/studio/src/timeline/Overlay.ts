import { timeHeight, type Band } from "../layout/Bands.ts"
import { inkOn } from "../layout/Colours.ts"
import type { RequestOrder } from "../layout/RequestRows.ts"
import { firstEndingAfter } from "../layout/StepTrack.ts"
import { ticks } from "../layout/Ticks.ts"
import { xOf } from "../layout/Viewport.ts"
import type { Scene } from "./Painter.ts"
import { replicaOfStep, stepSpan } from "./RunModel.ts"

/** What lies over the picture. */
export interface OverlayState {
  readonly selectedStep: number
  /** CSS pixels; −1 while no pointer is over it. */
  readonly pointerX: number
  readonly order: RequestOrder
  readonly groupOf: (row: number) => string
}

const font = '11px ui-sans-serif, system-ui, -apple-system, "Segoe UI", sans-serif'

/** A step is labelled from this width on, CSS pixels. */
const labelledStep = 74

/** Draws text and lines over the picture; `context` counts in CSS pixels. */
export const drawOverlay = (
  context: CanvasRenderingContext2D,
  scene: Scene,
  width: number,
  state: OverlayState,
): void => {
  const { bands, theme } = scene
  const height = bands.at(-1)!.top + bands.at(-1)!.height
  context.clearRect(0, 0, width, height)
  context.font = font
  context.textBaseline = "middle"
  for (const band of bands) {
    if (band.kind === "ruler") drawRuler(context, scene, band, width, height)
    if (band.kind === "overview") drawWindow(context, scene, band, width)
    if (band.kind === "time") drawBudgets(context, scene, band, width)
    if (band.kind === "device") drawStepLabels(context, scene, band, width)
    if (band.kind === "requests") drawRequestLabels(context, scene, band, width, state)
  }
  if (state.selectedStep >= 0) drawSelectedStep(context, scene, width, height, state.selectedStep)
  if (state.pointerX >= 0) {
    context.strokeStyle = theme.soft
    context.globalAlpha = 0.5
    line(context, Math.round(state.pointerX) + 0.5, bands[1]!.top, Math.round(state.pointerX) + 0.5, height)
    context.globalAlpha = 1
  }
}

const line = (context: CanvasRenderingContext2D, x0: number, y0: number, x1: number, y1: number): void => {
  context.beginPath()
  context.moveTo(x0, y0)
  context.lineTo(x1, y1)
  context.stroke()
}

const drawRuler = (
  context: CanvasRenderingContext2D,
  { view, theme }: Scene,
  { top, height }: Band,
  width: number,
  end: number,
): void => {
  for (const { time, label } of ticks(view, width)) {
    const x = Math.round(xOf(view, width, time)) + 0.5
    context.strokeStyle = theme.rule
    context.globalAlpha = 0.7
    line(context, x, top + height - 5, x, end)
    context.globalAlpha = 1
    context.fillStyle = theme.soft
    const text = context.measureText(label).width
    if (x + 4 + text < width) context.fillText(label, x + 4, top + height / 2)
  }
}

const drawWindow = (
  context: CanvasRenderingContext2D,
  { view, model, theme }: Scene,
  band: Band,
  width: number,
): void => {
  const from = xOf(model.bounds, width, view.from)
  const to = xOf(model.bounds, width, view.to)
  context.fillStyle = theme.ground
  context.globalAlpha = 0.62
  context.fillRect(0, band.top, from, band.height)
  context.fillRect(to, band.top, width - to, band.height)
  context.globalAlpha = 1
  context.strokeStyle = theme.accent
  context.lineWidth = 1.5
  context.strokeRect(
    Math.max(0.75, from),
    band.top + 0.75,
    Math.max(2, Math.min(width - 0.75, to) - Math.max(0.75, from)),
    band.height - 1.5,
  )
  context.lineWidth = 1
}

const drawBudgets = (context: CanvasRenderingContext2D, { model, theme }: Scene, band: Band, width: number): void => {
  const { stepBudgetMicros, tokenBudget } = model.result.meta
  if (tokenBudget !== null) return
  const y = Math.round(band.top + band.height - timeHeight(stepBudgetMicros) * band.height) + 0.5
  context.strokeStyle = theme.accent
  context.setLineDash([4, 3])
  line(context, 0, y, width, y)
  context.setLineDash([])
}

/** What a step holds, where it is wide enough to say so. */
const drawStepLabels = (context: CanvasRenderingContext2D, scene: Scene, band: Band, width: number): void => {
  const { model, view } = scene
  const track = model.tracks[band.replica]!
  const { steps } = model.result.timeline
  if (band.height < 20) return
  for (let at = firstEndingAfter(track, view.from); at < track.count && track.start[at]! < view.to; at++) {
    const x0 = Math.max(0, xOf(view, width, track.start[at]!))
    const x1 = Math.min(width, xOf(view, width, track.end[at]!))
    if (x1 - x0 < labelledStep) {
      // Steps are about as long as each other: when one of the first few is narrow, so are the others.
      if (track.end[at]! - track.start[at]! > (view.to - view.from) / 400) continue
      if ((view.to - view.from) / (track.end[at]! - track.start[at]!) > 2000) return
      continue
    }
    const step = track.index[at]!
    const decode = steps.decodeRows[step]!
    const prefill = steps.rows.reduce((sum, rows) => sum + rows[step]!, 0)
    const parts = [decode > 0 ? `${decode} decode` : "", prefill > 0 ? `${prefill} prefill` : ""].filter(Boolean)
    const text = fitting(
      context,
      [`${steps.stepId[step]!} · ${parts.join(" + ")}`, parts.join(" + "), `${steps.stepId[step]!}`],
      x1 - x0 - 8,
    )
    if (text === "") continue
    context.fillStyle = inkOn(mostOf(scene, step))
    context.fillText(text, x0 + 5, band.top + band.height / 2 + 1)
  }
}

/** The colour in the middle of a step's slice, where its label stands. */
const mostOf = ({ model, theme }: Scene, step: number): string => {
  const { steps } = model.result.timeline
  const { segmentLayers } = model.result.meta
  const layers = segmentLayers.reduce((sum, own) => sum + own, 0)
  const shares = [steps.decodeRows[step]! * layers, ...steps.rows.map((rows, s) => rows[step]! * segmentLayers[s]!)]
  const half = shares.reduce((sum, share) => sum + share, 0) / 2
  let passed = 0
  const at = shares.findIndex((share) => (passed += share) >= half)
  return at <= 0 ? theme.decode : theme.segments[at - 1]!
}

/** The first text that is no wider than `width`; none: empty. */
const fitting = (context: CanvasRenderingContext2D, texts: ReadonlyArray<string>, width: number): string =>
  texts.find((text) => context.measureText(text).width <= width) ?? ""

const drawRequestLabels = (
  context: CanvasRenderingContext2D,
  scene: Scene,
  band: Band,
  width: number,
  state: OverlayState,
): void => {
  const { rows, scroll, rowHeight, scale, theme, model, selectedRequest } = scene
  const own = rowHeight / scale
  const offset = scroll / scale
  const { promptTokens } = model.result.requests
  const isLabelled = own >= 11
  let group = ""
  for (let i = Math.max(0, Math.floor(offset / own)); i < rows.length; i++) {
    const y = band.top + i * own - offset
    if (y >= band.top + band.height) break
    const row = rows[i]!
    const named = state.groupOf(row)
    if (named !== group && y + 14 < band.top + band.height) {
      group = named
      label(context, named, width - 8, Math.max(y, band.top) + 7, theme.ink, theme.lane, "right")
    }
    if ((isLabelled || row === selectedRequest) && y >= band.top - 1) {
      const text = `${row + 1} · ${tokensLabel(promptTokens[row]!)}`
      label(context, text, 4, y + own / 2, row === selectedRequest ? theme.accent : theme.ink, theme.lane, "left")
    }
  }
}

const tokensLabel = (tokens: number): string =>
  tokens < 1000 ? `${tokens}` : `${(tokens / 1000).toFixed(tokens < 10_000 ? 1 : 0)}K`

const label = (
  context: CanvasRenderingContext2D,
  text: string,
  x: number,
  y: number,
  ink: string,
  ground: string,
  align: "left" | "right",
): void => {
  const width = context.measureText(text).width
  const left = align === "left" ? x : x - width
  context.globalAlpha = 0.78
  context.fillStyle = ground
  context.fillRect(left - 3, y - 6.5, width + 6, 13)
  context.globalAlpha = 1
  context.fillStyle = ink
  context.fillText(text, left, y + 0.5)
}

const drawSelectedStep = (
  context: CanvasRenderingContext2D,
  { model, view, bands, theme }: Scene,
  width: number,
  height: number,
  step: number,
): void => {
  const { from, to } = stepSpan(model, step)
  const x0 = xOf(view, width, from)
  const x1 = xOf(view, width, to)
  const ruler = bands.find((band) => band.kind === "ruler")!
  if (x1 < 0 || x0 > width) return
  context.fillStyle = theme.accent
  context.globalAlpha = 0.12
  context.fillRect(x0, ruler.top + ruler.height, Math.max(1, x1 - x0), height)
  context.globalAlpha = 1
  context.strokeStyle = theme.accent
  line(context, Math.round(x0) + 0.5, ruler.top + 4, Math.round(x0) + 0.5, height)
  context.beginPath()
  context.moveTo(x0 - 5, ruler.top)
  context.lineTo(x0 + 5, ruler.top)
  context.lineTo(x0, ruler.top + 8)
  context.fill()
  const device = bands.find((band) => band.kind === "device" && band.replica === replicaOfStep(model, step))
  if (device === undefined) return
  context.lineWidth = 2
  context.strokeStyle = theme.ink
  context.strokeRect(x0, device.top, Math.max(2, x1 - x0), device.height)
  context.lineWidth = 1
}
