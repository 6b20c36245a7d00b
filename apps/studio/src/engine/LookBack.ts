import type { Moment, Progress, RunResult } from "../protocol/Protocol.ts"

/** A run whose steps can be looked at once it is over. */
export interface LookBack {
  readonly run: (isStopped: () => boolean, onProgress: (progress: Progress) => void) => Promise<RunResult>
  readonly at: (step: number, request: number) => Moment
  /** The run as a file of ui.perfetto.dev; undefined where it has none. */
  readonly perfetto?: () => string
}

/** A run as it is paced. */
export interface Paced {
  readonly advance: (instants: number) => void
  readonly isDone: () => boolean
  /** How many times as far apart as the first ones checkpoints should lie by now. */
  readonly spread: () => number
  readonly checkpoint: () => void
  readonly progress: () => Progress
}

export interface Timing {
  /** ms of this machine's time, and how much of that checkpoints took. */
  readonly tookMs: number
  readonly checkpointsMs: number
  /** ms since 1970. */
  readonly endedAt: number
}

/**
 * Computing between two checkpoints, ms, and so what the replay up to a step takes at most, but for a slice: a small part of what
 * a look may, since putting the checkpoint back and showing the step take as long.
 */
const replayMs = 5

/** Time between two looks at what came from the page, ms. */
const sliceMs = 3
const progressMs = 80

/**
 * Runs in slices, with a checkpoint after every {@link replayMs} of computing: by time and not by steps, some of which take a
 * hundred times as long as others. Looks for messages between slices, so that a run can be stopped.
 */
export const paced = async (
  run: Paced,
  isStopped: () => boolean,
  onProgress: (progress: Progress) => void,
): Promise<Timing> => {
  const started = performance.now()
  let shown = started
  let instants = 200
  let sinceMs = 0
  let checkpointsMs = 0
  while (!run.isDone() && !isStopped()) {
    const begun = performance.now()
    run.advance(instants)
    const ended = performance.now()
    sinceMs += ended - begun
    instants = Math.max(50, Math.min(20_000, Math.round((instants * sliceMs) / Math.max(1, ended - begun))))
    if (sinceMs >= replayMs * run.spread()) {
      run.checkpoint()
      checkpointsMs += performance.now() - ended
      sinceMs = 0
    }
    if (ended - shown > progressMs) {
      shown = ended
      onProgress(run.progress())
    }
    await breath()
  }
  const ended = performance.now()
  return { tookMs: ended - started, checkpointsMs, endedAt: performance.timeOrigin + ended }
}

/** Lets messages in: a message to oneself comes after those that wait. */
export const breath = (): Promise<void> =>
  new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel()
    port1.addEventListener("message", () => {
      port1.close()
      resolve()
    })
    port1.start()
    port2.postMessage(null)
  })
