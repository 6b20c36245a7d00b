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
  /** `[slot, count, logit × count]` for slots opened with `returnLogits`: the whole row before sampling, as f32 bits. */
  readonly logits = new IntList()
  /** `[checksum]` of the plan's bytes as each tensor-parallel rank read them; none from executors that take no bytes. */
  readonly ranks = new IntList()

  private readonly lists: ReadonlyArray<IntList> = resultSections.map((name) => this[name])

  clear(stepId: number): void {
    this.stepId = stepId
    this.deviceMicros = 0
    for (let s = 0; s < this.lists.length; s++) this.lists[s]!.length = 0
  }
}

export const resultSections = ["tokens", "selections", "logprobs", "logits", "ranks"] as const

/** Flags of a token record. */
export const TokenFlag = {
  /** The token is one of the slot's stop tokens. */
  stop: 1,
  /** The logits of this row held a NaN or an infinity; the token is meaningless. */
  nonFinite: 2,
} as const

/** Flags of a selection record. */
export const SelectionFlag = {
  /** Scores were not finite: everything was kept. */
  fallback: 1,
  /** The bitmap was given when the slot was opened and applied again, not scored. */
  replayed: 2,
} as const
