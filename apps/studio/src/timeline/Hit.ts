import { bandAt } from "../layout/Bands.ts"
import { stepNear } from "../layout/StepTrack.ts"
import { timeAt } from "../layout/Viewport.ts"
import type { Scene } from "./Painter.ts"

/** What is at a place of the picture, CSS pixels. */
export type Hit =
  | { readonly kind: "overview"; readonly time: number }
  | { readonly kind: "step"; readonly step: number }
  | { readonly kind: "request"; readonly request: number; readonly step: number }
  | { readonly kind: "none" }

export const hitAt = (scene: Scene, width: number, x: number, y: number): Hit => {
  const { bands, model, view, scale } = scene
  const band = bandAt(bands, y)
  if (band === undefined) return { kind: "none" }
  if (band.kind === "overview") return { kind: "overview", time: timeAt(model.bounds, width, x) }
  const time = timeAt(view, width, x)
  const step = stepAt(scene, Math.max(0, band.replica), time)
  if (band.kind !== "requests") return step < 0 ? { kind: "none" } : { kind: "step", step }
  const at = Math.floor(((y - band.top) * scale + scene.scroll) / scene.rowHeight)
  const request = scene.rows[at]
  if (request === undefined) return { kind: "none" }
  const own = stepAt(scene, model.result.requests.replica[request]!, time)
  return { kind: "request", request, step: own }
}

const stepAt = ({ model }: Scene, replica: number, time: number): number => {
  const track = model.tracks[replica]!
  const at = stepNear(track, time)
  return at < 0 ? -1 : track.index[at]!
}
