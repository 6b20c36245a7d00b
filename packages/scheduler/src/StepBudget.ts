import type { CostModel } from "./CostModel.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { servingDefaults } from "./ServingDefaults.ts"
import type { StepLoad } from "./StepLoad.ts"

/** Measured over predicted time that is believed, either way; and the weight of the newest step. */
const mostCorrection = 8
const newest = 1 / 16

/**
 * How long a step may take.
 *
 * Time, not tokens: decodes first, then prefill while the step stays within its budget. Two rules stand beside that. Decodes
 * cannot take all of a step: prefill gets the share {@link SchedulerConfig.prefillFloor} of its time, and where that is less
 * than the smallest chunk takes, it is saved up until it is not. And predictions follow measurement: what steps with and
 * without prefill took is compared with what was predicted, so a device that is slower than its tables gets smaller chunks.
 *
 * Under a policy's token budget none of this holds: rows bound the step.
 */
export class StepBudget {
  /** What a step is measured by while prefill is added to it. */
  measure!: CostModel
  private readonly costs: CostModel
  private tokens: number | undefined
  private busyMicros = 0
  private idleMicros = 0
  /** What decodes leave of each µs that they take. */
  private readonly shareOfDecodes: number
  /** Measured over predicted time of steps with prefill, and without. */
  private withPrefill = 1
  private withoutPrefill = 1
  /** Share of the time of the step being planned that decodes leave to prompts; all of it where rows bound the step. */
  prefillShare = 1
  /** Of the plan being made: what its decodes take, and what prefill is owed in it, both as measured. */
  private decodeMicros = 0
  private saved = 0
  private owed = 0

  constructor(config: SchedulerConfig) {
    const floor = config.prefillFloor ?? servingDefaults.prefillFloor
    if (!(floor >= 0 && floor < 1)) throw new RangeError(`prefillFloor must be from 0 to below 1, got ${floor}`)
    this.costs = config.costModel
    this.shareOfDecodes = floor / (1 - floor)
    this.configure(config)
  }

  /** Other budgets, or a policy that bounds steps otherwise. What was learned of the device stays. */
  configure({ policy, stepBudgetMicros, idleStepBudgetMicros }: SchedulerConfig): void {
    this.tokens = policy.tokenBudget?.maxNumBatchedTokens
    this.measure = policy.tokenBudget === undefined ? this.costs : tokenCount
    this.busyMicros = stepBudgetMicros
    this.idleMicros = idleStepBudgetMicros
  }

  /**
   * How much a step may be measured to take, which so far holds the decodes of `load` alone. `someoneWaits`: for a token, a
   * first one that is being computed included. With a time budget: predicted µs, before correction.
   */
  open(load: StepLoad, someoneWaits: boolean): number {
    if (this.tokens !== undefined) return this.tokens
    this.decodeMicros = load.decodeRows === 0 ? 0 : this.costs.stepMicros(load) * this.withoutPrefill
    this.owed = this.decodeMicros * this.shareOfDecodes
    const budget = Math.max(someoneWaits ? this.busyMicros : this.idleMicros, this.decodeMicros + this.owed)
    this.prefillShare = (budget - this.decodeMicros) / budget
    return budget / this.withPrefill
  }

  /** No chunk fits the step being planned: whether what prompts were owed since one did pays for this load, the smallest. */
  pays(load: StepLoad): boolean {
    if (this.tokens !== undefined) return false
    this.saved += this.owed
    this.owed = 0
    if (this.costs.stepMicros(load) * this.withPrefill - this.decodeMicros > this.saved) return false
    this.saved = 0
    return true
  }

  /** The step got prefill, or there was none to give it. */
  settle(): void {
    this.saved = 0
  }

  /** What a step with prefill is measured to take, of what it is predicted to. */
  get prefillCorrection(): number {
    return this.withPrefill
  }

  /** What a step is predicted to take, in µs, before correction. */
  uncorrected(load: StepLoad): number {
    return this.costs.stepMicros(load)
  }

  /** The same corrected; `prefills`: it has prefill. */
  corrected(micros: number, prefills: boolean): number {
    return Math.ceil(micros * (prefills ? this.withPrefill : this.withoutPrefill))
  }

  /**
   * A step took `micros`. `predicted`: what it would have been predicted to take, before correction, had it been known which rows
   * its selections keep.
   */
  measured(predicted: number, prefills: boolean, micros: number): void {
    if (micros <= 0 || predicted <= 0) return
    const ratio = Math.min(mostCorrection, Math.max(1 / mostCorrection, micros / predicted))
    if (prefills) this.withPrefill += (ratio - this.withPrefill) * newest
    else this.withoutPrefill += (ratio - this.withoutPrefill) * newest
  }
}

/** Rows of a step in place of its time: what a policy's token budget bounds. */
const tokenCount: CostModel = { stepMicros: (load) => load.decodeRows + load.tokens }
