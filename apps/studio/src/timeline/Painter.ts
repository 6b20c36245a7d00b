import { timeHeight, type Band } from "../layout/Bands.ts"
import type { Theme } from "../layout/Colours.ts"
import { maxOf } from "../layout/MaxPyramid.ts"
import { memoryPixels } from "../layout/Memory.ts"
import { pixelOf, type Pixels } from "../layout/Pixels.ts"
import { SpanKind, spansOf } from "../layout/RequestRows.ts"
import { stepPixels, stepsAt, type StepPixels, type StepTrack } from "../layout/StepTrack.ts"
import { xOf, type Viewport } from "../layout/Viewport.ts"
import type { RunModel } from "./RunModel.ts"

/** What a picture of a run shows. Lengths are pixels of the picture. */
export interface Scene {
  readonly model: RunModel
  readonly view: Viewport
  readonly bands: ReadonlyArray<Band>
  readonly theme: Theme
  /** Pixels of the picture for one of CSS. */
  readonly scale: number
  /** Requests in the picture, the first at the top of their band. */
  readonly rows: ArrayLike<number>
  readonly rowHeight: number
  /** How far the first of them lies above the band's top. */
  readonly scroll: number
  readonly selectedRequest: number
}

/** Paints a run. Pure: pixels are all that it changes. */
export const paint = (pixels: Pixels, scene: Scene): void => {
  const { theme, bands, model, view } = scene
  pixels.data.fill(pixelOf(theme.ground))
  const shares = new Map<StepTrack, StepPixels>()
  const pixelsOf = (track: StepTrack): StepPixels => {
    const known = shares.get(track) ?? stepPixels(track, view, pixels.width)
    shares.set(track, known)
    return known
  }
  for (const band of bands) {
    const top = band.top * scene.scale
    const height = band.height * scene.scale
    if (band.kind !== "ruler" && band.kind !== "overview")
      pixels.rect(0, top, pixels.width, top + height, pixelOf(theme.lane))
    if (band.kind === "overview") paintOverview(pixels, scene, top, height)
    if (band.kind === "device") paintDevice(pixels, scene, pixelsOf, model.tracks[band.replica]!, top, height)
    if (band.kind === "time") paintTimes(pixels, scene, pixelsOf, tracksOf(scene, band), top, height)
    if (band.kind === "queue") paintQueue(pixels, scene, pixelsOf, top, height)
    if (band.kind === "memory") {
      pixels.stacked(
        top,
        height,
        memoryPixels(model.memory, view, pixels.width),
        memoryColours(model, theme).map((one) => pixelOf(one)),
      )
    }
    if (band.kind === "requests") paintRequests(pixels, scene, top, height)
  }
}

type PixelsOf = (track: StepTrack) => StepPixels

const tracksOf = ({ model }: Scene, { replica }: Band): ReadonlyArray<StepTrack> =>
  replica < 0 ? model.tracks : [model.tracks[replica]!]

/** Decode, prefill by segment, failed, without rows: as the categories of a track. */
export const stepColours = (theme: Theme): ReadonlyArray<string> => [
  theme.decode,
  ...theme.segments,
  theme.failed,
  theme.waiting,
]

export const memoryColours = ({ memory }: RunModel, theme: Theme): ReadonlyArray<string> =>
  memory.names.map((name) =>
    name === "carry"
      ? theme.carry
      : name === "shared prefixes"
        ? theme.shared
        : name === "prefixes nobody uses"
          ? theme.idle
          : theme.segments[Number(name.split(" ")[1])]!,
  )

/** The whole run looks the same whatever part of it is shown. */
const overviews = new WeakMap<RunModel, ReadonlyArray<Float32Array>>()

const paintOverview = (pixels: Pixels, { model, theme }: Scene, top: number, height: number): void => {
  pixels.rect(0, top, pixels.width, top + height, pixelOf(theme.lane))
  const known = overviews.get(model)
  const mean = known?.[0]?.length === pixels.width ? known : meanShares(model, pixels.width)
  overviews.set(model, mean)
  pixels.stacked(
    top,
    height,
    mean,
    stepColours(theme).map((one) => pixelOf(one)),
  )
}

const meanShares = (model: RunModel, width: number): ReadonlyArray<Float32Array> => {
  const all = model.tracks.map((track) => stepPixels(track, model.bounds, width).shares)
  return all[0]!.map((_, c) =>
    Float32Array.from({ length: width }, (__, x) => all.reduce((sum, shares) => sum + shares[c]![x]!, 0) / all.length),
  )
}

/** Steps in a pixel beyond which a mark would say nothing: there is a selection in nearly every one. */
const mostMarked = 2

const paintDevice = (
  pixels: Pixels,
  scene: Scene,
  pixelsOf: PixelsOf,
  track: StepTrack,
  top: number,
  height: number,
): void => {
  const { theme, view, scale } = scene
  const found = pixelsOf(track)
  pixels.stacked(
    top,
    height,
    found.shares,
    stepColours(theme).map((one) => pixelOf(one)),
  )
  const selection = pixelOf(theme.selection)
  const ground = pixelOf(theme.lane)
  const perPixel = (view.to - view.from) / pixels.width
  for (let x = 0; x < pixels.width; x++) {
    const [low, high] = stepsAt(found, track, view, pixels.width, x)
    // A mark on top where selections were made, as long as one can be told from the next.
    if (high - low <= mostMarked && track.selections[high]! > track.selections[low]!)
      pixels.column(x, top, top + 3 * scale, selection)
    // A line between two steps, where steps are wide enough to be seen.
    if (high > low && perPixel < 1e6) {
      const begins = track.start[high - 1]! > view.from + x * perPixel && low < high
      const wide = track.end[high - 1]! - track.start[high - 1]! > 4 * perPixel
      if (begins && wide) pixels.column(x, top, top + height, ground)
    }
  }
}

/** The longest step of every pixel, on a logarithmic axis, and the budgets as lines. */
const paintTimes = (
  pixels: Pixels,
  scene: Scene,
  pixelsOf: PixelsOf,
  tracks: ReadonlyArray<StepTrack>,
  top: number,
  height: number,
): void => {
  const { theme, view, scale, model } = scene
  const line = pixelOf(theme.soft)
  const fill = pixelOf(theme.rule)
  const over = pixelOf(theme.failed)
  const { stepBudgetMicros, tokenBudget } = model.result.meta
  for (let x = 0; x < pixels.width; x++) {
    let most = 0
    for (const track of tracks) {
      const [low, high] = stepsAt(pixelsOf(track), track, view, pixels.width, x)
      most = Math.max(most, maxOf(track.longest, low, high))
    }
    if (most === 0) continue
    const y = top + height - timeHeight(most) * height
    pixels.column(x, y, top + height, fill)
    const isOver = tokenBudget === null && most > stepBudgetMicros * 1.02
    pixels.column(x, y, y + Math.max(1, 1.5 * scale), isOver ? over : line)
  }
}

/** Requests that wait as an area, those that run as a line over it, of all replicas together. */
const paintQueue = (pixels: Pixels, scene: Scene, pixelsOf: PixelsOf, top: number, height: number): void => {
  const { theme, view, model, scale } = scene
  const area = pixelOf(theme.waiting)
  const line = pixelOf(theme.accent)
  const most = Math.max(model.mostWaiting, model.mostRunning) * model.tracks.length
  const last = model.tracks.map(() => [0, 0] as [number, number])
  let before = -1
  for (let x = 0; x < pixels.width; x++) {
    let waiting = 0
    let running = 0
    for (const [i, track] of model.tracks.entries()) {
      const [low, high] = stepsAt(pixelsOf(track), track, view, pixels.width, x)
      if (high > low) last[i] = [maxOf(track.waiting, low, high), maxOf(track.running, low, high)]
      waiting += last[i]![0]
      running += last[i]![1]
    }
    pixels.column(x, top + height - (waiting / most) * height, top + height, area)
    const y = top + height - (running / most) * height
    const from = before < 0 ? y : Math.min(before, y)
    pixels.column(x, from, Math.max(from, y, before) + Math.max(1, scale), line)
    before = y
  }
}

export const spanColours = (theme: Theme): ReadonlyArray<string> => {
  const colours: Array<string> = []
  colours[SpanKind.waiting] = theme.waiting
  colours[SpanKind.pending] = theme.pending
  colours[SpanKind.decode] = theme.decode
  colours[SpanKind.preempted] = theme.preempted
  return [...colours, ...theme.segments]
}

const paintRequests = (pixels: Pixels, scene: Scene, top: number, height: number): void => {
  const { model, view, rows, rowHeight, scroll, theme } = scene
  const colours = spanColours(theme).map((one) => pixelOf(one))
  const first = Math.max(0, Math.floor(scroll / rowHeight))
  const inset = rowHeight > 4 ? Math.max(1, Math.floor(rowHeight / 8)) : 0
  for (let i = first; i < rows.length; i++) {
    const y = top + i * rowHeight - scroll
    if (y >= top + height) break
    const above = Math.max(top, y + inset)
    const below = Math.min(top + height, y + rowHeight - inset)
    if (rows[i] === scene.selectedRequest && rowHeight > 2) {
      pixels.rect(0, Math.max(top, y), pixels.width, Math.min(top + height, y + rowHeight), pixelOf(theme.rule))
    }
    spansOf(model.index, rows[i]!, view, (kind, from, to) => {
      const x0 = xOf(view, pixels.width, from)
      const x1 = xOf(view, pixels.width, to)
      // Waiting is thin: it takes time and nothing else.
      const thin = kind === SpanKind.waiting || kind === SpanKind.preempted ? (below - above) * 0.3 : 0
      pixels.rect(x0, above + thin, Math.max(x1, x0 + 1), below - thin, colours[kind]!)
    })
  }
}
