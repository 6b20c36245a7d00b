/**
 * The order in which prompts are served, and who makes room when memory runs out: plain functions over read-only views.
 * The views have no output lengths, so a policy that peeks at the future cannot be written.
 *
 * The scheduler owns liveness, not the policy: the oldest prompt, passed over too often or for too long, is served first, and
 * the oldest request that was preempted too often is nobody's victim, whatever a policy says.
 */
export interface Policy {
  readonly name: string
  /** What it was made with, so that a recording can name it whole. */
  readonly options?: Readonly<Record<string, number>> | undefined
  /**
   * Requests of one `priority` never fill the whole queue, so that there is room for those of another: see `queueRoom`. For
   * policies that go by it.
   */
  readonly byPriority?: boolean | undefined
  /** Replaces the time budget of a step: see {@link TokenBudget}. */
  readonly tokenBudget?: TokenBudget | undefined
  /**
   * Ids of queued prompts, first to be served first. Ids left out follow in order of arrival; an unknown id is a
   * {@link PolicyFault}. Undefined: order of arrival, without the cost of asking.
   *
   * Asked when something can be served: the list holds the prompts in prefill, and those that wait where a slot is free and
   * memory was given back since admission last failed. The list is the policy's own to sort.
   */
  readonly order?: ((queue: Array<QueuedPrompt>, nowMicros: number) => Iterable<number>) | undefined
  /**
   * Ids of running requests to preempt when memory runs out, first to go first. Those left out follow, the latest
   * arrival first. The oldest protected request is nobody's victim, whatever is proposed.
   */
  readonly victims?: ((running: Array<RunningRequest>, nowMicros: number) => Iterable<number>) | undefined
  /**
   * Whether a prompt that waits, the first in order, may take slot and memory from the first proposed victim. Undefined:
   * what runs goes on until memory runs out.
   */
  readonly preempts?: ((waiting: QueuedPrompt, running: RunningRequest) => boolean) | undefined
  /**
   * How long a prompt waits before {@link preempts} is asked for it, for most slots come free without; and then for the oldest
   * of each tenant alone. Undefined: at once, and for all.
   */
  readonly preemptsAfterMicros?: number | undefined
}

/** Rows instead of time bound a step, as engines do that do not predict time. */
export interface TokenBudget {
  /** Decode rows and prefill rows of a step; a row of a later segment counts like one of the first. */
  readonly maxNumBatchedTokens: number
  /** Requests that run at the same time. */
  readonly maxNumSeqs: number
}

/** A prompt that waits or is in prefill. Queues are given in order of arrival. */
export interface QueuedPrompt {
  readonly id: number
  readonly promptLength: number
  /** Lower is sooner. */
  readonly priority: number
  readonly arrivedMicros: number
  /** When its first token is due; Infinity where nobody said. */
  readonly deadlineMicros: number
  readonly tenant: string
  /** Work done for the tenant so far: prompt tokens computed and twice its output tokens. See `Tenants`. */
  readonly tenantServed: number
  /** Slots that the tenant has. */
  readonly tenantRunning: number
  /** Prompt tokens found in the prefix cache, that is, those of its pages that are there now where it waits. */
  readonly cachedTokens: number
  /** Predicted time of the rest of its prefill alone on the device, what is cached left out, every other row kept. */
  readonly remainingPrefillMicros: number
  readonly segment: number
  /** Rows of that segment computed so far. */
  readonly computedRows: number
}

/** A request that has a slot. */
export interface RunningRequest {
  readonly id: number
  readonly promptLength: number
  readonly priority: number
  readonly arrivedMicros: number
  readonly deadlineMicros: number
  readonly tenant: string
  readonly tenantServed: number
  /** Slots that the tenant has. */
  readonly tenantRunning: number
  /** Whether its prompt is computed. */
  readonly isDecoding: boolean
  /** Output tokens so far. */
  readonly outputs: number
  readonly ownedSlabs: number
}

/** A policy that threw, or that named a request that it was not shown. */
export class PolicyFault extends Error {
  readonly policy: string

  constructor(policy: string, detail: string, cause?: unknown) {
    super(`policy ${policy} ${detail}`, cause === undefined ? undefined : { cause })
    this.name = "PolicyFault"
    this.policy = policy
  }
}

/** First come, first served. */
export const fcfs: Policy = { name: "fcfs" }
