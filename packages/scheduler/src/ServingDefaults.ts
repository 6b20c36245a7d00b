/**
 * What holds where nobody says otherwise, for the server and the simulator alike: the policy that is studied is the policy
 * that is served. Times in µs.
 */
export const servingDefaults = {
  /** Predicted time of a step while requests decode: the target for the time between two tokens. */
  stepBudgetMicros: { cuda: 50_000, cpu: 200_000 },
  /** The same while nobody decodes, and so nobody waits for the step's end. */
  idleStepBudgetMicros: { cuda: 500_000, cpu: 1_000_000 },
  /** Share of every step's time that decodes cannot take from prompts. */
  prefillFloor: 0.2,
  /** A prompt that waits longer for its next chunk gets the smallest one whatever the budget. */
  maxPrefillWaitMicros: 2_000_000,
  /** Times that the oldest prompt may be passed over, and how long it may be the oldest, before it goes first. */
  protectAfter: 8,
  protectAfterMicros: 30_000_000,
  /** Output tokens of each decode that memory is kept for when a prompt is admitted. */
  headroomTokens: 384,
  /** A preempted answer that has waited longer takes the memory of others that have run for a quarter of that. */
  maxPauseMicros: 9_250_000,
  maxStepsInFlight: 2,
  maxWaiting: 1_024,
  maxWaitingTokens: 4_194_304,
  /** How many times what is left of the queue a tenant may fill, and its requests of one priority what is left of that: see `queueRoom`. */
  tenantShare: 8,
  /** Rows between the places where a prefix can be resumed in models with windows or recurrent states. */
  resumeEvery: 4_096,
} as const
