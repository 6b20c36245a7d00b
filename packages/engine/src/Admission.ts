import type { ExecutorError } from "@uniprefill/executor/contract/Executor"
import type { Driver, DriverConfig } from "@uniprefill/scheduler/Driver"
import type { Request, Submission } from "@uniprefill/scheduler/Request"
import { Cause, Effect, Exit, Latch } from "effect"
import { EngineError, type GenerateRequest } from "./Engine.ts"
import { describe } from "./ExecutorLoop.ts"
import type { Generation } from "./Generation.ts"

/** A request that was queued and waits for the executor to take its contents. */
export class Admitted {
  private left: number
  private refusal: EngineError | null = null
  private readonly decided = Latch.makeUnsafe(false)

  constructor(contents: number) {
    this.left = contents
  }

  /** The executor has taken one of the contents, or refused it. Returns whether this is the request's first refusal. */
  decide(exit: Exit.Exit<void, ExecutorError>): boolean {
    const isFirst = Exit.isFailure(exit) && this.refusal === null
    if (isFirst) this.refusal = refusalOf(exit.cause)
    if (--this.left === 0 || this.refusal !== null) this.decided.openUnsafe()
    return isFirst
  }

  /** Nothing more will be decided: the engine has stopped. */
  giveUp(detail: string): void {
    this.refusal ??= new EngineError({ reason: "Failed", field: null, detail })
    this.decided.openUnsafe()
  }

  /** Succeeds once every content was taken. */
  readonly taken: Effect.Effect<void, EngineError> = Effect.flatMap(this.decided.await, () =>
    this.refusal === null ? Effect.void : Effect.fail(this.refusal),
  )
}

const refusalOf = (cause: Cause.Cause<ExecutorError>): EngineError => {
  const error = Cause.squash(cause) as ExecutorError
  const isOwn = error.reason === "InvalidArgument"
  return new EngineError({
    reason: isOwn ? "InvalidRequest" : "Failed",
    field: null,
    detail: isOwn ? error.detail : describe(cause),
  })
}

/** What is asked for and whether it is taken: names of requests, room in the queue, several answers to one prompt. */
export class Admission {
  draining = false
  /** Set when nothing is served any more. */
  halted: string | null = null
  private readonly driver: Driver
  private readonly limits: DriverConfig
  /** How many answers of each request have not ended. */
  private readonly requestIds = new Map<string, number>()

  constructor(driver: Driver, limits: DriverConfig) {
    this.driver = driver
    this.limits = limits
  }

  /**
   * Queues a request whose answers will be `generations`, each of which learns what it is scheduled as; returns why not
   * otherwise, and nothing of it is queued then. `pageKeys` are those of the prompt's full pages.
   */
  submit(
    request: GenerateRequest,
    generations: ReadonlyArray<Generation>,
    pageKeys: ReadonlyArray<string> | undefined,
    nowMicros: number,
  ): EngineError | null {
    const closed = this.closed()
    if (closed !== null) return closed
    const {
      requestId,
      prompt,
      maxTokens,
      drop,
      minP,
      p,
      priority,
      tenant,
      firstTokenWithinMicros,
      promptLogprobs = -1,
    } = request
    if (this.requestIds.has(requestId)) {
      return refuse("InvalidRequest", "request_id", `a request with the id ${requestId} is running`)
    }
    const submission: Submission = {
      promptLength: prompt.length,
      maxTokens,
      // Every row's logits are wanted: none may be dropped, and none found in the cache.
      drops: drop && promptLogprobs < 0,
      fixedP: p !== undefined || minP !== undefined,
      priority,
      tenant,
      deadlineMicros: firstTokenWithinMicros === undefined ? undefined : nowMicros + firstTokenWithinMicros,
      pageKeys: promptLogprobs < 0 ? pageKeys : undefined,
    }
    const leaders = this.queue(submission, generations.length, nowMicros)
    if (leaders instanceof EngineError) return leaders
    let answer = 0
    for (const leader of leaders) {
      for (const scheduled of [leader, ...leader.forks]) {
        generations[answer]!.scheduled = scheduled
        generations[answer++]!.leader = leader
      }
    }
    this.requestIds.set(requestId, generations.length)
    return null
  }

  /** An answer has ended: a request's name is free with its last one. Returns whether this was the last. */
  ended({ request }: Generation): boolean {
    const left = this.requestIds.get(request.requestId)! - 1
    if (left > 0) this.requestIds.set(request.requestId, left)
    else this.requestIds.delete(request.requestId)
    return left === 0
  }

  /** Why `requests` requests alike with `promptTokens` prompt tokens in all cannot be queued together; null if they can. */
  room(requests: number, promptTokens: number, tenant: string): EngineError | null {
    const closed = this.closed()
    if (closed !== null) return closed
    const { maxWaiting, maxWaitingTokens } = this.limits
    const { waiting, scheduler } = this.driver
    if (waiting + requests > maxWaiting) {
      const reason = requests > maxWaiting ? "TooLong" : "QueueFull"
      return refuse(
        reason,
        null,
        `${waiting} requests are waiting and ${requests} more come, at most ${maxWaiting} may`,
      )
    }
    const most = this.driver.mostAlike(tenant)
    if (requests > most) {
      const detail = `${requests} requests of one tenant and priority come, at most ${most} may wait of a queue of ${maxWaiting}`
      return refuse("TooLong", null, detail)
    }
    // As in the Driver: one prompt of any length may wait alone.
    if (scheduler.waitingTokens + promptTokens > maxWaitingTokens && waiting + requests > 1) {
      const reason = promptTokens > maxWaitingTokens && requests > 1 ? "TooLong" : "QueueFull"
      const detail = `${scheduler.waitingTokens} prompt tokens are waiting and ${promptTokens} more come, at most ${maxWaitingTokens} may`
      return refuse(reason, null, detail)
    }
    return null
  }

  /**
   * Queues so many answers as one request, or in halves, quarters … where slots or memory could never hold them all at a
   * time: those that come later find the prompt in the cache. Returns the first answer of each part.
   */
  private queue(submission: Submission, answers: number, nowMicros: number): ReadonlyArray<Request> | EngineError {
    const leaders: Array<Request> = []
    let together = answers
    for (let queued = 0; queued < answers;) {
      const count = Math.min(together, answers - queued)
      const outcome = this.driver.submit({ ...submission, answers: count }, nowMicros)
      if (outcome._tag === "Queued") {
        leaders.push(outcome.request)
        queued += count
        continue
      }
      if (outcome._tag === "TooLong" && together > 1) {
        together = Math.ceil(together / 2)
        continue
      }
      // Nothing was stored for them: there is nothing to forget.
      for (const { id } of leaders) this.driver.abort(id)
      if (outcome._tag === "QueueFull") return refuse("QueueFull", null, outcome.detail)
      const field = submission.promptLength >= this.limits.maxModelLen ? "prompt" : "max_tokens"
      return refuse("TooLong", field, outcome.detail)
    }
    return leaders
  }

  /** Why nothing is taken any more; null while it is. */
  private closed(): EngineError | null {
    if (this.halted !== null) return refuse("Failed", null, this.halted)
    if (this.draining) return refuse("Draining", null, "the engine is shutting down and takes no new requests")
    return null
  }
}

const refuse = (reason: EngineError["reason"], field: string | null, detail: string) =>
  new EngineError({ reason, field, detail })
