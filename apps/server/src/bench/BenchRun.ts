import { BenchClient, type BenchOutcome, type BenchTarget } from "./BenchClient.ts"
import type { BenchRequest } from "./BenchDataset.ts"

export interface BenchRun {
  readonly outcomes: ReadonlyArray<BenchOutcome>
  readonly durationSeconds: number
  /** Most requests that were under way at a time. */
  readonly peakConcurrency: number
}

/** Sends every request when it is due, no more than `maxConcurrency` at a time, and waits for all. */
export const runBench = async (
  target: BenchTarget,
  requests: ReadonlyArray<BenchRequest>,
  sendAt: ReadonlyArray<number>,
  maxConcurrency: number,
  onDone: (done: number) => void,
  signal: AbortSignal,
): Promise<BenchRun> => {
  const client = new BenchClient(target)
  const outcomes: Array<BenchOutcome | undefined> = requests.map(() => undefined)
  const startMs = performance.now()
  const free: Array<() => void> = []
  let underWay = 0
  let peak = 0
  let done = 0
  const send = async (i: number) => {
    if (underWay >= maxConcurrency) await new Promise<void>((resolve) => free.push(resolve))
    peak = Math.max(peak, ++underWay)
    outcomes[i] = await client.send(requests[i]!)
    underWay--
    onDone(++done)
    free.shift()?.()
  }
  const sent: Array<Promise<void>> = []
  try {
    for (const [i, seconds] of sendAt.entries()) {
      const wait = startMs + seconds * 1000 - performance.now()
      if (wait > 0) await sleep(wait, signal)
      if (signal.aborted) break
      sent.push(send(i))
    }
    await Promise.all(sent)
  } finally {
    client.close()
  }
  return {
    outcomes: outcomes.filter((outcome) => outcome !== undefined),
    durationSeconds: (performance.now() - startMs) / 1000,
    peakConcurrency: peak,
  }
}

const sleep = (ms: number, signal: AbortSignal): Promise<void> =>
  new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    signal.addEventListener("abort", () => {
      clearTimeout(timer)
      resolve()
    })
  })
