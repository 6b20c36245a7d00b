/**
 * The order in which prompts are served: a plain function over a read-only view. The view has no output lengths, so a
 * policy that peeks at the future cannot be written.
 */
export interface Policy {
  readonly name: string
  /**
   * Ids of queued prompts, first to be served first. Ids left out follow in order of arrival; an unknown id is an error
   * that names the policy. Undefined: order of arrival, without the cost of asking.
   */
  readonly order?: (queue: ReadonlyArray<QueuedPrompt>, nowMicros: number) => ReadonlyArray<number>
  /**
   * Ids of running requests to preempt when memory runs out, first to go first. Those left out follow, the latest
   * arrival first. A protected request is never the victim of one behind it, whatever is proposed.
   */
  readonly victims?: (running: ReadonlyArray<RunningRequest>, nowMicros: number) => ReadonlyArray<number>
}

/** A request that has a slot. */
export interface RunningRequest {
  readonly id: number
  readonly promptLength: number
  readonly priority: number
  readonly arrivedMicros: number
  /** Output tokens so far. */
  readonly outputs: number
  readonly ownedSlabs: number
}

/** A prompt that waits or is in prefill. Queues are given in order of arrival. */
export interface QueuedPrompt {
  readonly id: number
  readonly promptLength: number
  /** Lower is sooner. */
  readonly priority: number
  readonly arrivedMicros: number
  readonly segment: number
  /** Rows of that segment computed so far. */
  readonly computedRows: number
}

/** First come, first served. */
export const fcfs: Policy = { name: "fcfs" }
