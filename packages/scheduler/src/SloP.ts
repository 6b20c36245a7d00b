import type { Request } from "./Request.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import type { StepBudget } from "./StepBudget.ts"
import { StepLoad, windowsOf } from "./StepLoad.ts"
import type { WaitingQueue } from "./WaitingQueue.ts"

/** Weight of the newest prompt in what is learned of prompts. */
const newest = 1 / 16

/** Share of the time to a deadline that a prediction may take: prompts that come meanwhile take the rest. */
const promised = 0.75

/** Who else wants the device. */
interface Others {
  readonly waiting: WaitingQueue
  readonly prefilling: ReadonlyArray<Request>
  readonly budget: StepBudget
}

/**
 * Whether a prompt that is about to start is served at a lower p than the schedule's, because first tokens would be late
 * otherwise: its own, or that of the prompt that came last, which finds everything in the queue before it.
 *
 * A prompt is predicted to keep what those before it kept, and to share the device with decodes as the step at hand does.
 * Learned from nobody yet, it keeps every row. What was decided of a prompt holds to its end.
 */
export class SloP {
  private readonly config: SchedulerConfig
  private readonly load: StepLoad
  /** Shares kept after each selection, of prompts at the schedule's p and of those lowered: 1 before any was seen. */
  private readonly ownShares: Float64Array
  private readonly loweredShares: Float64Array
  /** Predicted µs of prefill for each prompt token, at the schedule's p. */
  private microsPerToken = 0

  constructor(config: SchedulerConfig) {
    const { layout, sloP } = config
    if (sloP !== undefined && !(sloP >= 0 && sloP <= 1)) throw new RangeError(`sloP must be from 0 to 1, got ${sloP}`)
    this.config = config
    this.load = new StepLoad(layout.segments.length, windowsOf(layout))
    this.ownShares = new Float64Array(layout.segments.length - 1).fill(1)
    this.loweredShares = new Float64Array(layout.segments.length - 1).fill(1)
  }

  /** Requires a prompt that has its slot and its cached pages, is no longer in the queue and has no work planned. */
  lowers(request: Request, { waiting, prefilling, budget }: Others, nowMicros: number): boolean {
    const { drops, fixedP, account, progress } = request
    if (this.config.sloP === undefined || !drops) return false
    const own = this.restMicros(request, budget)
    const perToken = own / request.promptLength
    this.microsPerToken += this.microsPerToken === 0 ? perToken : (perToken - this.microsPerToken) * newest
    if (fixedP || account.isLowered || progress.keptRows.length > 1 || progress.outputs > 0) return false
    let work = own
    for (let i = 0; i < prefilling.length; i++) {
      if (prefilling[i] !== request) work += this.restMicros(prefilling[i]!, budget)
    }
    const isLate = (micros: number, one: Request) => nowMicros + micros / budget.prefillShare > dueMicros(one)
    if (isLate(work, request)) return true
    const last = waiting.at(waiting.length - 1)
    return last !== undefined && isLate(work + waiting.tokens * this.microsPerToken, last)
  }

  /** A selection of a prompt was made, and its kept set is known. */
  selected({ account, promptLength, progress }: Request, segment: number): void {
    const shares = account.isLowered ? this.loweredShares : this.ownShares
    const kept = progress.keptRows[segment + 1]! / promptLength
    shares[segment]! += (kept - shares[segment]!) * newest
  }

  /** Predicted time of the rest of a prompt's prefill alone on the device, as measured. */
  private restMicros(request: Request, budget: StepBudget): number {
    const { load } = this
    const { progress, promptLength, account } = request
    const { layout } = this.config
    const shares = account.isLowered ? this.loweredShares : this.ownShares
    const last = layout.segments.length - 1
    load.clearPrefill()
    load.items = 1
    let before = progress.segment === 0 ? 0 : progress.prefillRows(progress.segment - 1)
    for (let s = progress.segment; s <= last; s++) {
      const isDecided = s < progress.keptRows.length
      const expected = isDecided ? progress.rowsOf(s) : Math.ceil(promptLength * shares[s - 1]!)
      const all = expected + progress.replayedOutputs
      const rows = s === 0 ? all : Math.min(before, all)
      const first = s === progress.segment ? progress.computedRows : 0
      load.addRows(1, s, first, rows - first, rows, before)
      if (s < last) load.addSelection(1, s, rows)
      before = rows
    }
    return budget.corrected(budget.uncorrected(load), true)
  }
}

const dueMicros = ({ arrivedMicros, deadlineMicros }: Request): number =>
  arrivedMicros + promised * (deadlineMicros - arrivedMicros)
