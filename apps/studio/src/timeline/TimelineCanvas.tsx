import {
  type KeyboardEvent,
  type PointerEvent,
  type RefObject,
  useEffect,
  useImperativeHandle,
  useRef,
  useState,
} from "react"
import { bands, type Band } from "../layout/Bands.ts"
import { themeOf } from "../layout/Colours.ts"
import { timeLabel } from "../layout/Ticks.ts"
import { Controller, type RowChoice } from "./Controller.ts"
import type { Hit } from "./Hit.ts"
import type { RunModel } from "./RunModel.ts"
import { replicaOfStep } from "./RunModel.ts"
import type { SharedView } from "./SharedView.ts"

export interface TimelineHandle {
  readonly picture: () => Promise<Blob>
  readonly neighbour: (by: number) => number
}

interface Props {
  readonly model: RunModel
  readonly view: SharedView
  readonly isDark: boolean
  readonly step: number
  readonly request: number
  readonly choice: RowChoice
  readonly label: string
  readonly onPick: (hit: Hit) => void
  /** Keys that the timeline has no use for itself. */
  readonly onKey?: (event: KeyboardEvent) => void
  readonly handle?: RefObject<TimelineHandle | null>
}

/** The picture of a run with its labels. As a control it is a slider over the steps. */
export const TimelineCanvas = ({ model, view, isDark, step, request, choice, label, onPick, onKey, handle }: Props) => {
  const frame = useRef<HTMLDivElement>(null)
  const base = useRef<HTMLCanvasElement>(null)
  const over = useRef<HTMLCanvasElement>(null)
  const tip = useRef<HTMLDivElement>(null)
  const controller = useRef<Controller | null>(null)
  const pick = useRef(onPick)
  const [size, setSize] = useState({ width: 0, height: 0 })

  useEffect(() => {
    pick.current = onPick
  }, [onPick])

  useEffect(() => {
    const theme = themeOf(isDark, model.result.meta.segmentLayers.length)
    const made = new Controller(base.current!, over.current!, model, theme, view, {
      picked: (hit) => pick.current(hit),
      hovered: (lines, x, y) => showTip(tip.current!, frame.current!, lines, x, y),
    })
    controller.current = made
    const element = frame.current!
    const fit = () => {
      made.resize(element.clientWidth, element.clientHeight)
      setSize({ width: element.clientWidth, height: element.clientHeight })
    }
    const observer = new ResizeObserver(fit)
    observer.observe(element)
    fit()
    // React listens to wheels passively: it could not keep the page from scrolling.
    const onWheel = (event: WheelEvent) => {
      event.preventDefault()
      const { x, y } = placeIn(element, event)
      made.wheel(x, y, event.deltaX, event.deltaY, event.ctrlKey || event.metaKey, event.shiftKey)
    }
    element.addEventListener("wheel", onWheel, { passive: false })
    return () => {
      element.removeEventListener("wheel", onWheel)
      observer.disconnect()
      made.dispose()
      controller.current = null
    }
  }, [model, view, isDark])

  useEffect(() => controller.current?.arrange(choice), [choice, model, view, isDark])
  useEffect(() => controller.current?.select(step, request), [step, request, model, view, isDark])
  useImperativeHandle(handle, () => ({
    picture: () => controller.current!.picture(),
    neighbour: (by) => controller.current!.neighbour(by),
  }))

  const { steps } = model.result.timeline
  const onPointer = (act: (made: Controller, id: number, x: number, y: number) => void) => (event: PointerEvent) => {
    const made = controller.current
    if (made === null) return
    const { x, y } = placeIn(frame.current!, event)
    act(made, event.pointerId, x, y)
  }
  return (
    <div className="timeline">
      <div className="gutter" aria-hidden="true">
        {size.height > 0
          ? bands(model.tracks.length, size.height).map((band) => (
              <BandLabel key={`${band.kind}${band.replica}`} band={band} model={model} />
            ))
          : null}
      </div>
      <div
        ref={frame}
        className="canvas-frame"
        role="slider"
        tabIndex={0}
        aria-label={label}
        aria-valuemin={1}
        aria-valuemax={Math.max(1, steps.count)}
        aria-valuenow={Math.max(1, step + 1)}
        aria-valuetext={
          step < 0
            ? `${steps.count} steps, none selected`
            : `step ${steps.stepId[step]!} of replica ${steps.replica[step]!} at ${timeLabel(steps.start[step]!, 1000)}`
        }
        onKeyDown={onKey}
        onPointerDown={onPointer((made, id, x, y) => {
          frame.current!.setPointerCapture(id)
          frame.current!.focus({ preventScroll: true })
          made.pointerDown(id, x, y)
        })}
        onPointerMove={onPointer((made, id, x, y) => made.pointerMove(id, x, y))}
        onPointerUp={onPointer((made, id, x, y) => made.pointerUp(id, x, y))}
        onPointerCancel={onPointer((made, id) => made.pointerGone(id))}
        onPointerLeave={onPointer((made, id) => made.pointerGone(id))}
      >
        <canvas ref={base} />
        <canvas ref={over} className="over" />
        <div ref={tip} className="tip" hidden />
      </div>
    </div>
  )
}

const placeIn = (element: HTMLElement, event: { readonly clientX: number; readonly clientY: number }) => {
  const { left, top } = element.getBoundingClientRect()
  return { x: event.clientX - left, y: event.clientY - top }
}

const showTip = (
  tip: HTMLElement,
  frame: HTMLElement,
  lines: ReadonlyArray<string> | null,
  x: number,
  y: number,
): void => {
  tip.hidden = lines === null
  if (lines === null) return
  tip.replaceChildren(
    ...lines.map((line, i) => {
      const row = document.createElement(i === 0 ? "strong" : "span")
      row.textContent = line
      return row
    }),
  )
  const { offsetWidth, offsetHeight } = tip
  tip.style.left = `${x + 14 + offsetWidth > frame.clientWidth ? Math.max(0, x - 14 - offsetWidth) : x + 14}px`
  tip.style.top = `${Math.min(Math.max(0, frame.clientHeight - offsetHeight), y + 12)}px`
}

const BandLabel = ({ band, model }: { readonly band: Band; readonly model: RunModel }) => {
  const { meta } = model.result
  const [title, note] = bandText(band, meta.replicas, model)
  return (
    <div className="band-label" style={{ top: band.top, height: band.height }}>
      <span>{title}</span>
      {band.height >= 30 && note !== "" ? <small>{note}</small> : null}
    </div>
  )
}

const bandText = (band: Band, replicas: number, model: RunModel): readonly [title: string, note: string] => {
  switch (band.kind) {
    case "overview":
      return ["whole run", ""]
    case "ruler":
      return ["", ""]
    case "device":
      return [replicas === 1 ? "device" : `replica ${band.replica}`, "steps"]
    case "time":
      return ["step time", model.result.meta.tokenBudget === null ? "-- budget" : ""]
    case "queue":
      return ["queue", "waiting, running"]
    case "memory":
      return ["memory", "by what uses it"]
    case "requests":
      return ["requests", `${model.result.requests.count} in all`]
  }
}

/** The step of the same replica that is `by` steps on; the nearest one at an end. */
export const stepOn = (model: RunModel, step: number, by: number): number => {
  if (step < 0) return model.result.timeline.steps.count === 0 ? -1 : 0
  const track = model.tracks[replicaOfStep(model, step)]!
  const at = Math.min(track.count - 1, Math.max(0, model.placeOf[step]! + by))
  return track.index[at]!
}
