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
  readonly steps: () => number
  readonly isDone: () => boolean
  /** Sets the steps between two checkpoints. */
  readonly spread: (steps: number) => void
  readonly isCheckpointDue: () => boolean
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

/** What the replay up to a step may take, ms: a tenth of what a look may, since there are steps that take several times as long. */
const replayMs = 8

/** Least and most steps between checkpoints. */
const leastSteps = 512
const mostSteps = 65_536

/** Time between two looks at what came from the page, ms. */
const sliceMs = 4
const progressMs = 80

/**
 * Runs in slices, with checkpoints as far apart as this machine simulates in {@link replayMs}. Looks for messages between
 * slices, so that a run can be stopped.
 */
export const paced = async (
  run: Paced,
  isStopped: () => boolean,
  onProgress: (progress: Progress) => void,
): Promise<Timing> => {
  const started = performance.now()
  let shown = started
  let instants = 200
  let stepMs = 0
  let checkpointsMs = 0
  while (!run.isDone() && !isStopped()) {
    const before = run.steps()
    const begun = performance.now()
    run.advance(instants)
    const ended = performance.now()
    const steps = run.steps() - before
    if (steps > 0) {
      const measured = (ended - begun) / steps
      stepMs = stepMs === 0 ? measured : 0.8 * stepMs + 0.2 * measured
      run.spread(Math.round(Math.min(mostSteps, Math.max(leastSteps, replayMs / stepMs))))
    }
    instants = Math.max(50, Math.min(20_000, Math.round((instants * sliceMs) / Math.max(1, ended - begun))))
    if (run.isCheckpointDue()) {
      run.checkpoint()
      checkpointsMs += performance.now() - ended
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
