import { IntList } from "./IntList.ts"

/** What a step produced, as data. Sections are lists of integer records; floats travel as their 32-bit patterns. */
export class StepResult {
  stepId = 0
  /** Time the device spent on the step, in µs. */
  deviceMicros = 0

  /** `[slot, token, flags]`, decode rows first in the order of the decode set, then `samples` in the plan's order. */
  readonly tokens = new IntList()
  /** `[slot, segment, flags, words, …bits]`: the selection made after `segment`, one bit per block of S_segment. */
  readonly selections = new IntList()
  /**
   * `[slot, count, (token, logprob) × count]` for slots that asked for logprobs: the sampled token first, then the most
   * likely ones. Natural logarithms of the distribution before temperature and filters, as f32 bits.
   */
  readonly logprobs = new IntList()
  /** `[slot, count, logit × count]` for contents with `returnLogits`: the whole row before sampling, as f32 bits. */
  readonly logits = new IntList()
  /** `[checksum]` of the plan's bytes as each tensor-parallel rank read them; none from executors that take no bytes. */
  readonly ranks = new IntList()
  /** `[slot, reason]`: the slot has no token in this step and ends; see {@link FailureReason}. Others are not concerned. */
  readonly failures = new IntList()
  /**
   * `[slot, row, count, (token, logprob) × count]` for contents with `promptLogprobs`: of prompt row `row`, the prompt's next
   * token first, then the most likely ones.
   */
  readonly promptLogprobs = new IntList()
  /** `[slot, segment, micros]` for selections that were made, by executors that measure how long each takes: 1 µs at least. */
  readonly selectionMicros = new IntList()

  /** All of them, in the order of {@link resultSections}. */
  readonly lists: ReadonlyArray<IntList> = resultSections.map((name) => this[name])

  clear(stepId: number): void {
    this.stepId = stepId
    this.deviceMicros = 0
    for (let s = 0; s < this.lists.length; s++) this.lists[s]!.length = 0
  }
}

/** Number and record width of every section of a result; width 0 for records that say their own length. Numbers are permanent. */
export const resultFormats = {
  tokens: { id: 1, width: 3 },
  selections: { id: 2, width: 0 },
  logprobs: { id: 3, width: 0 },
  logits: { id: 4, width: 0 },
  ranks: { id: 5, width: 1 },
  failures: { id: 6, width: 2 },
  promptLogprobs: { id: 7, width: 0 },
  selectionMicros: { id: 8, width: 3 },
} as const

export type ResultSection = keyof typeof resultFormats

export const resultSections = Object.keys(resultFormats) as ReadonlyArray<ResultSection>

/** Flags of a token record. */
export const TokenFlag = {
  /** The token is one of the slot's stop tokens. */
  stop: 1,
} as const

/** Why a slot got no token. */
export const FailureReason = {
  /** The logits of its row held a NaN or an infinity. */
  nonFinite: 1,
  /** Its grammar allows no further token. */
  grammarEnd: 2,
} as const

/** Flags of a selection record. */
export const SelectionFlag = {
  /** Scores were not finite: everything was kept. */
  fallback: 1,
  /** The bitmap was part of the slot's content and is applied again, not scored. */
  replayed: 2,
} as const
