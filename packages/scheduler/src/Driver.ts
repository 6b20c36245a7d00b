import { lastSegment } from "@uniprefill/model/KvLayout"
import { InvariantViolation } from "./InvariantViolation.ts"
import { checkIntegrity } from "./Invariants.ts"
import type { PageKey } from "./PrefixCache.ts"
import { Request, type FinishReason, type Submission } from "./Request.ts"
import { Scheduler } from "./Scheduler.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { StepPlan } from "./StepPlan.ts"
import { TokenFlag, type StepResult } from "./StepResult.ts"

export interface DriverConfig extends SchedulerConfig {
  /** 1 or 2: with 2 the plan for the next step is made while one runs. */
  readonly maxStepsInFlight: 1 | 2
  /** Longest prompt + output of a request, in tokens. */
  readonly maxModelLen: number
  /** Requests that may wait. */
  readonly maxWaiting: number
  /** Prompt tokens that may wait. */
  readonly maxWaitingTokens: number
}

/** What can be changed while the loop runs. */
export type Adjustment = Partial<
  Pick<DriverConfig, "policy" | "stepBudgetMicros" | "idleStepBudgetMicros" | "maxPrefillWaitMicros">
>

/**
 * What the loop tells its shell, called synchronously from within its methods. `openSlot`, `closeSlot` and `submit` are to
 * be carried out by the executor in the order of the calls.
 */
export interface DriverSink {
  /** Give the executor the content of `request`'s slot: its tokens and its bitmaps. */
  readonly openSlot: (request: Request) => void
  readonly closeSlot: (slot: number) => void
  /** Run a step after those submitted before. The plan is the loop's own and valid until the step is done. */
  readonly submit: (plan: StepPlan) => void
  readonly token: (request: Request, token: number, index: number, flags: number) => void
  readonly selected: (request: Request, segment: number, bitmap: Uint32Array, kept: number, flags: number) => void
  /** The request has ended and nothing more is said of it. What it owns is given back once no step in flight uses it. */
  readonly finished: (request: Request, reason: FinishReason) => void
}

export type SubmitOutcome =
  /** `request.forks` are the other answers, where several were asked for. */
  | { readonly _tag: "Queued"; readonly request: Request }
  /** Never: the request exceeds what this configuration can hold. */
  | { readonly _tag: "TooLong"; readonly detail: string }
  /** Not now: try again later. */
  | { readonly _tag: "QueueFull"; readonly detail: string }

/**
 * The serving loop as a pure state machine: events in, each with the time; calls to the sink out. The engine and the
 * simulator drive the same one.
 *
 * Nothing is planned but in `tick`, so a shell applies all events of an instant and then calls it once.
 */
export class Driver {
  readonly scheduler: Scheduler
  private config: DriverConfig
  private readonly sink: DriverSink
  private readonly requests = new Map<number, Request>()
  /** Ended requests that a step in flight still holds work of. */
  private readonly ending: Array<Request> = []
  /** Whose token the shell is being given. */
  private given: Request | null = null
  private nextRequest = 1
  private nextStep = 1
  private readonly inFlight: Array<StepPlan> = []
  private readonly spare: Array<StepPlan> = [new StepPlan(), new StepPlan()]
  private readonly commitSink

  constructor(config: DriverConfig, sink: DriverSink) {
    this.config = config
    this.sink = sink
    this.scheduler = new Scheduler(config)
    this.commitSink = {
      token: (request: Request, token: number, index: number, flags: number) =>
        this.onToken(request, token, index, flags),
      selected: sink.selected,
      openSlot: sink.openSlot,
      closeSlot: sink.closeSlot,
    }
  }

  /** Requests that have a slot. */
  get running(): number {
    return this.config.slots - this.scheduler.memory.slotsFree
  }

  get waiting(): number {
    return this.scheduler.waiting.length
  }

  /** What is in force. */
  get settings(): DriverConfig {
    return this.config
  }

  /** Every request that waits or owns anything, in order of arrival. */
  get open(): Iterable<Request> {
    return this.requests.values()
  }

  /** The oldest step being run, 0 when none is. */
  get stepInFlight(): number {
    return this.inFlight[0]?.stepId ?? 0
  }

  get stepsInFlight(): number {
    return this.inFlight.length
  }

  /**
   * Queues a request or says why not. Nothing is kept of a refused one. Fails with RangeError for more page keys than the
   * prompt has full pages.
   */
  submit(submission: Submission, nowMicros: number): SubmitOutcome {
    const { config, scheduler } = this
    const { promptLength, pageKeys = [] } = submission
    if (pageKeys.length > Math.floor(promptLength / config.layout.pageSize)) {
      throw new RangeError(
        `${pageKeys.length} page keys for ${promptLength} tokens: pages have ${config.layout.pageSize}, and only full ones a key`,
      )
    }
    if (!Number.isSafeInteger(promptLength) || promptLength < 1) {
      return { _tag: "TooLong", detail: `a prompt has at least 1 token, this one ${promptLength}` }
    }
    if (promptLength >= config.maxModelLen) {
      return {
        _tag: "TooLong",
        detail: `the prompt has ${promptLength} tokens; with one token of output the model takes ${config.maxModelLen}`,
      }
    }
    const maxTokens = submission.maxTokens ?? config.maxModelLen - promptLength
    if (!Number.isSafeInteger(maxTokens) || maxTokens < 1) {
      return { _tag: "TooLong", detail: `an answer has at least 1 token, this one at most ${maxTokens}` }
    }
    if (promptLength + maxTokens > config.maxModelLen) {
      return {
        _tag: "TooLong",
        detail: `${promptLength} prompt tokens and ${maxTokens} output tokens make ${promptLength + maxTokens}; the model takes ${config.maxModelLen}`,
      }
    }
    if (scheduler.waiting.length >= config.maxWaiting) {
      return {
        _tag: "QueueFull",
        detail: `${scheduler.waiting.length} requests are waiting, at most ${config.maxWaiting} may`,
      }
    }
    if (scheduler.waitingTokens + promptLength > config.maxWaitingTokens && scheduler.waiting.length > 0) {
      return {
        _tag: "QueueFull",
        detail: `${scheduler.waitingTokens} prompt tokens are waiting, at most ${config.maxWaitingTokens} may`,
      }
    }
    const { answers = 1 } = submission
    const most = Math.min(config.slots, config.policy.tokenBudget?.maxNumSeqs ?? config.slots)
    if (!Number.isSafeInteger(answers) || answers < 1 || answers > most) {
      return { _tag: "TooLong", detail: `${answers} answers to a prompt; from 1 to ${most} can run at a time` }
    }
    let request = this.fitted(submission, maxTokens, nowMicros)
    let need = scheduler.memory.worstCase(request)
    if (pageKeys.length > 0 && (need > config.slabs || request.maxTokens < maxTokens)) {
      // What is cached of a prompt stays while it runs: one that fills the memory does without.
      request = this.fitted({ ...submission, pageKeys: undefined }, maxTokens, nowMicros)
      need = scheduler.memory.worstCase(request)
    }
    if (need > config.slabs) {
      const outputs = answers === 1 ? `${request.maxTokens}` : `${answers} × ${request.maxTokens}`
      return {
        _tag: "TooLong",
        detail: `${promptLength} prompt tokens and ${outputs} output tokens may need ${need} slabs of memory; there are ${config.slabs}`,
      }
    }
    this.nextRequest += answers
    for (const one of [request, ...request.forks]) {
      this.requests.set(one.id, one)
      one.tenant = scheduler.tenants.enter(one.tenant.name)
    }
    scheduler.enqueue(request)
    return { _tag: "Queued", request }
  }

  /**
   * Ends a request from outside: at once, or when the step that holds work of it is done. Unknown ids are ignored. The first
   * of several answers takes the others with it as long as their prompt is not computed.
   */
  abort(id: number): void {
    const request = this.requests.get(id)
    if (request !== undefined && request.endReason === null) this.end(request, "abort")
  }

  /** Ends a request whose text reached a stop string with its first `outputs` output tokens. */
  finish(id: number, outputs: number): void {
    const request = this.requests.get(id)
    if (request === undefined || request.endReason !== null) return
    if (outputs > request.outputs) {
      throw new InvariantViolation("a request finishes within its output", { id, outputs, committed: request.outputs })
    }
    request.outputs = outputs
    this.end(request, "stop")
  }

  /**
   * The key of the next full page of a request's prompt and output, known now that the shell has seen its tokens. Call it
   * after the `stepDone` that brought the last of them.
   */
  pageFilled(id: number, key: PageKey): void {
    const request = this.requests.get(id)
    if (request === undefined || request.endReason !== null) return
    // Where the prompt's own pages have no keys, none can follow.
    if (request.pageKeys.length < Math.floor(request.promptLength / this.config.layout.pageSize)) return
    request.pageKeys.push(key)
    if (request.phase === "waiting") request.recount()
    if (request.leader !== null) return
    // The token sampled last is in no page yet.
    if (request.phase !== "decode" || request.preempting || (request.drops && !request.keepsCarry)) return
    this.scheduler.memory.publish(request, request.promptLength + request.outputs - 1)
  }

  /**
   * From the next plan on. What was decided stays, and so does every queue. Requires that a policy with fewer sequences
   * at a time still has room for the answers of every request that waits.
   */
  adjust(adjustment: Adjustment): void {
    this.config = { ...this.config, ...adjustment }
    this.scheduler.configure(this.config)
  }

  /** Takes the result of the oldest step in flight. */
  stepDone(result: StepResult): void {
    const plan = this.inFlight.shift()
    if (plan === undefined || result.stepId !== plan.stepId) {
      throw new InvariantViolation("results come in the order of steps", {
        result: result.stepId,
        expected: plan?.stepId ?? "none",
      })
    }
    for (let rank = 1; rank < result.ranks.length; rank++) {
      if (result.ranks.data[rank] !== result.ranks.data[0]) {
        throw new InvariantViolation("every rank carries out the same plan", { step: plan.stepId, rank })
      }
    }
    this.scheduler.commit(plan, result, this.commitSink)
    this.spare.push(plan)
    this.releaseEnded()
  }

  /**
   * The oldest step in flight failed, and with it those after it. Everything with a slot ends with reason `error`, so the
   * executor is left with no open slot; waiting requests stay. The step's number is used again.
   */
  stepFailed(): void {
    const failed = this.inFlight[0]
    if (failed === undefined) throw new InvariantViolation("a step fails while it is in flight")
    const voided = this.inFlight.splice(0)
    this.scheduler.committed(this.nextStep - 1)
    this.nextStep = failed.stepId
    this.scheduler.memory.prefixes.abandon()
    for (const request of this.requests.values()) {
      if (request.slot >= 0 && request.endReason === null) this.end(request, "error")
    }
    this.releaseEnded()
    this.scheduler.memory.clearCache(voided)
    this.spare.push(...voided)
    this.scheduler.committed(failed.stepId - 1)
  }

  /** Plans and submits steps as long as fewer than the most are in flight and there is work. */
  tick(nowMicros: number): void {
    // What waited for its forks waits no longer when they have ended.
    if (this.ending.length > 0) this.releaseEnded()
    while (this.inFlight.length < this.config.maxStepsInFlight && this.scheduler.hasWork) {
      const plan = this.spare.pop()!
      if (!this.scheduler.plan(plan, this.nextStep, nowMicros, this.sink)) {
        this.spare.push(plan)
        return
      }
      this.nextStep++
      this.inFlight.push(plan)
      this.sink.submit(plan)
    }
  }

  /** Throws InvariantViolation when the books do not balance. */
  checkIntegrity(): void {
    checkIntegrity(this.scheduler, this.config, [...this.requests.values()])
  }

  /** As many output tokens as asked for; when none were asked for, as many as the memory can hold. */
  private fitted(submission: Submission, maxTokens: number, nowMicros: number): Request {
    const fits = (tokens: number) =>
      this.scheduler.memory.worstCase(this.make(submission, tokens, nowMicros)) <= this.config.slabs
    if (submission.maxTokens !== undefined || fits(maxTokens)) return this.make(submission, maxTokens, nowMicros)
    let low = 1
    let high = maxTokens
    while (low < high) {
      const middle = Math.ceil((low + high) / 2)
      if (fits(middle)) low = middle
      else high = middle - 1
    }
    return this.make(submission, low, nowMicros)
  }

  /** The request of a submission, its further answers attached. */
  private make(submission: Submission, maxTokens: number, nowMicros: number): Request {
    const { layout, schedule } = this.config
    const drops = submission.drops && lastSegment(layout) > 0 && submission.promptLength >= schedule.minPromptTokens
    const first = new Request(this.nextRequest, submission, maxTokens, drops, layout, nowMicros)
    for (let answer = 1; answer < (submission.answers ?? 1); answer++) {
      const fork = new Request(this.nextRequest + answer, submission, maxTokens, drops, layout, nowMicros)
      fork.phase = "fork"
      fork.leader = first
      first.forks.push(fork)
    }
    return first
  }

  private onToken(request: Request, token: number, index: number, flags: number): void {
    this.given = request
    this.sink.token(request, token, index, flags)
    this.given = null
    if (request.endReason !== null) return
    if ((flags & TokenFlag.nonFinite) !== 0) this.end(request, "error")
    else if ((flags & TokenFlag.stop) !== 0) this.end(request, "stop")
    else if (request.outputs === request.maxTokens) this.end(request, "length")
  }

  private end(request: Request, reason: FinishReason): void {
    request.endReason = reason
    if (!request.forking) {
      for (const fork of request.forks.slice()) if (fork.endReason === null) this.end(fork, reason)
    }
    // A result that is being taken may hold a token of another request that its shell ends now.
    const isBeingTaken = this.given !== null && this.given !== request
    if (request.phase !== "waiting" && (isBeingTaken || this.scheduler.isInFlight(request))) {
      this.scheduler.retire(request)
      this.ending.push(request)
    } else this.release(request)
    this.sink.finished(request, reason)
  }

  private releaseEnded(): void {
    for (let i = this.ending.length - 1; i >= 0; i--) {
      const request = this.ending[i]!
      if (this.scheduler.isInFlight(request)) continue
      this.ending.splice(i, 1)
      this.release(request)
    }
  }

  private release(request: Request): void {
    const { slot } = request
    this.scheduler.remove(request)
    this.scheduler.tenants.leave(request.tenant)
    this.requests.delete(request.id)
    if (slot >= 0) this.sink.closeSlot(slot)
  }
}
