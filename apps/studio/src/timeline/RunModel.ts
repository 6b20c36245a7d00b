import { maxOf } from "../layout/MaxPyramid.ts"
import type { RunResult } from "../protocol/Protocol.ts"
import { memoryTrack, type MemoryTrack } from "../layout/Memory.ts"
import { requestIndex, type RequestIndex } from "../layout/RequestRows.ts"
import { stepTracks, type StepTrack } from "../layout/StepTrack.ts"
import type { Viewport } from "../layout/Viewport.ts"

/** A finished run, arranged so that any part of it is drawn quickly. Plain data: a worker makes it and gives it away. */
export interface RunModel {
  readonly result: RunResult
  readonly tracks: ReadonlyArray<StepTrack>
  readonly memory: MemoryTrack
  readonly index: RequestIndex
  /** All of its time. */
  readonly bounds: Viewport
  /** Of each step of the run: its place in its replica's track. */
  readonly placeOf: Uint32Array
  /** Most requests that wait at one time on one replica, and that run. */
  readonly mostWaiting: number
  readonly mostRunning: number
}

export const runModel = (result: RunResult): RunModel => {
  const { timeline, requests, meta } = result
  const { steps } = timeline
  const tracks = stepTracks(steps, meta.replicas, meta.segmentLayers)
  const placeOf = new Uint32Array(steps.count)
  for (const { index } of tracks) for (let at = 0; at < index.length; at++) placeOf[index[at]!] = at
  const index = requestIndex(timeline, requests)
  const ends = tracks.map(({ end, count }) => (count === 0 ? 0 : end[count - 1]!))
  const lastEnd = index.end.reduce((most, end) => Math.max(most, end), 0)
  return {
    result,
    tracks,
    memory: memoryTrack(timeline.memory, meta.memoryNames, meta.replicas, meta.slabs),
    index,
    bounds: { from: 0, to: Math.max(1000, lastEnd, ...ends) },
    placeOf,
    mostWaiting: Math.max(1, ...tracks.map(({ waiting, count }) => maxOf(waiting, 0, count))),
    mostRunning: Math.max(1, ...tracks.map(({ running, count }) => maxOf(running, 0, count))),
  }
}

/** The step of a replica that runs at a time, by its place in the run; −1 where there is none. */
export const replicaOfStep = ({ result }: RunModel, step: number): number => result.timeline.steps.replica[step]!

/** When a step begins and ends. */
export const stepSpan = ({ result }: RunModel, step: number): Viewport => {
  const { start, micros } = result.timeline.steps
  return { from: start[step]!, to: start[step]! + micros[step]! }
}

/** The next step, after `step`, in which a prompt waits in the queue; the last one where none does. */
export const nextWaiting = ({ result }: RunModel, step: number): number => {
  const { count, waiting } = result.timeline.steps
  for (let i = step + 1; i < count; i++) if (waiting[i]! > 0) return i
  return count - 1
}
