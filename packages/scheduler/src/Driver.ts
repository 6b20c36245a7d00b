import { lastSegment } from "@uniprefill/model/KvLayout"
import { ActionList, type Actions } from "./Actions.ts"
import { InvariantViolation } from "./InvariantViolation.ts"
import { checkIntegrity } from "./Invariants.ts"
import type { PageKey } from "./PrefixTree.ts"
import type { Level } from "./Levels.ts"
import { Request, type FinishReason, type Submission } from "./Request.ts"
import { Scheduler } from "./Scheduler.ts"
import { servingDefaults } from "./ServingDefaults.ts"
import type { SchedulerConfig } from "./SchedulerConfig.ts"
import { StepPlan } from "./StepPlan.ts"
import { TokenFlag, type StepResult } from "./StepResult.ts"
import { queueRoom, queueRoomAlone } from "./Tenants.ts"

export interface DriverConfig extends SchedulerConfig {
  /** 1 or 2: with 2 the plan for the next step is made while one runs. */
  readonly maxStepsInFlight: 1 | 2
  /** Longest prompt + output of a request, in tokens. */
  readonly maxModelLen: number
  /** Requests that may wait. */
  readonly maxWaiting: number
  /** Prompt tokens that may wait. */
  readonly maxWaitingTokens: number
  /**
   * How many times what is left of the queue a tenant with a name may fill, and its requests of one priority what is left of that, under a policy that goes by
   * it; 8 where nothing is said.
   */
  readonly tenantShare?: number | undefined
}

/** What can be changed while the loop runs. */
export type Adjustment = Partial<
  Pick<DriverConfig, "policy" | "stepBudgetMicros" | "idleStepBudgetMicros" | "maxPrefillWaitMicros">
>

export type SubmitOutcome =
  /**
   * `request.forks` are the other answers, where several were asked for. The content of each goes to the executor under its
   * `contentId` before the next `tick`.
   */
  | { readonly _tag: "Queued"; readonly request: Request }
  /** Never: the request exceeds what this configuration can hold. */
  | { readonly _tag: "TooLong"; readonly detail: string }
  /** Not now: try again later. */
  | { readonly _tag: "QueueFull"; readonly detail: string }

/**
 * The serving loop as a pure state machine: events in, each with the time; {@link Actions} out. The engine and the simulator
 * drive the same one.
 *
 * Nothing is planned but in `tick`, so a shell applies all events of an instant and then calls it once.
 */
export class Driver {
  readonly scheduler: Scheduler
  private config: DriverConfig
  private nextRequest = 1
  private nextStep = 1
  /** Steps in flight: the newest is the one before `nextStep`. */
  private inFlight = 0
  /** Step n is in plan n modulo their number: a list that is emptied and filled again would be made anew in every step. */
  private readonly plans: ReadonlyArray<StepPlan>
  /** Lists that are used again. */
  private readonly ofTick = new ActionList()
  private readonly ofStep = new ActionList()

  constructor(config: DriverConfig) {
    this.config = config
    this.scheduler = new Scheduler(config, config.maxStepsInFlight)
    this.plans = Array.from({ length: config.maxStepsInFlight }, () => new StepPlan())
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
    return this.scheduler.state.requests.values()
  }

  /** The oldest step being run, 0 when none is. */
  get stepInFlight(): number {
    return this.inFlight === 0 ? 0 : this.nextStep - this.inFlight
  }

  get stepsInFlight(): number {
    return this.inFlight
  }

  /**
   * Queues a request or says why not. Nothing is kept of a refused one. Fails with RangeError for more page keys than the
   * prompt has full pages.
   */
  submit(submission: Submission, nowMicros: number): SubmitOutcome {
    const { config, scheduler } = this
    const { promptLength } = submission
    const keys = submission.pageKeys?.length ?? 0
    if (keys > Math.floor(promptLength / config.layout.pageSize)) {
      throw new RangeError(
        `${keys} page keys for ${promptLength} tokens: pages have ${config.layout.pageSize}, and only full ones a key`,
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
    const crowded = this.crowding(submission)
    if (crowded !== null) return { _tag: "QueueFull", detail: crowded }
    const { answers = 1 } = submission
    const most = Math.min(config.slots, config.policy.tokenBudget?.maxNumSeqs ?? config.slots)
    if (!Number.isSafeInteger(answers) || answers < 1 || answers > most) {
      return { _tag: "TooLong", detail: `${answers} answers to a prompt; from 1 to ${most} can run at a time` }
    }
    let request = this.fitted(submission, maxTokens, nowMicros)
    let need = scheduler.memory.worstCase(request)
    if (keys > 0 && (need > config.slabs || request.maxTokens < maxTokens)) {
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
    scheduler.enqueue(request)
    return { _tag: "Queued", request }
  }

  /**
   * Ends a request from outside: at once, or when the step that holds work of it is done. Unknown ids are ignored. The first
   * of several answers takes the others with it as long as their prompt is not computed.
   */
  abort(id: number): Actions {
    return this.endFromOutside(id, "abort")
  }

  /** Ends a request whose text reached a stop string. Unknown ids, of one that has ended for example, are ignored. */
  finish(id: number): Actions {
    return this.endFromOutside(id, "stop")
  }

  /**
   * The key of the next full page of a request's prompt and output, known now that the shell has seen its tokens. Call it
   * after the `stepDone` that brought the last of them.
   */
  pageFilled(id: number, key: PageKey): void {
    const request = this.scheduler.state.requests.get(id)
    if (request === undefined || request.endReason !== null) return
    // Where the prompt's own pages have no keys, none can follow.
    if (request.holdings.pageKeys.length < Math.floor(request.promptLength / this.config.layout.pageSize)) return
    request.holdings.addKey(key)
    if (request.phase === "waiting") request.recount()
    if (request.leader !== null) return
    // The token sampled last is in no page yet.
    if (request.phase !== "decode" || request.flight.leaving || (request.drops && !request.holdings.keepsCarry)) return
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
  stepDone(result: StepResult): Actions {
    const stepId = this.stepInFlight
    if (stepId === 0 || result.stepId !== stepId) {
      throw new InvariantViolation("results come in the order of steps", {
        result: result.stepId,
        expected: stepId === 0 ? "none" : stepId,
      })
    }
    const plan = this.planOf(stepId)
    this.inFlight--
    for (let rank = 1; rank < result.ranks.length; rank++) {
      if (result.ranks.data[rank] !== result.ranks.data[0]) {
        throw new InvariantViolation("every rank carries out the same plan", { step: plan.stepId, rank })
      }
    }
    const actions = this.ofStep.clear()
    this.scheduler.commit(plan, result, actions)
    this.endAnswered(actions)
    this.endFailed(result, actions)
    this.scheduler.settle(actions)
    return actions
  }

  /**
   * The oldest step in flight failed, and with it those after it: the executor has forgotten everything but contents that
   * are not open. Everything with a slot ends with reason `error`; waiting requests stay. The step's number is used again.
   */
  stepFailed(): Actions {
    const failed = this.stepInFlight
    if (failed === 0) throw new InvariantViolation("a step fails while it is in flight")
    const actions = this.ofStep.clear()
    // Steps that never ran have not opened their contents.
    for (let stepId = failed; stepId < this.nextStep; stepId++) {
      const { opens } = this.planOf(stepId)
      for (let i = 0; i < opens.length; i += 2) actions.forgets.push(opens.data[i + 1]!)
    }
    this.inFlight = 0
    this.scheduler.committed(this.nextStep - 1)
    this.nextStep = failed
    // Who was preempted has given up everything that the executor has lost.
    this.scheduler.settle(actions)
    for (const request of this.scheduler.state.requests.values()) {
      if (request.slot >= 0 && request.endReason === null) this.end(request, "error", actions)
    }
    this.scheduler.settle(actions)
    this.scheduler.reset()
    this.scheduler.committed(failed - 1)
    return actions
  }

  /** Plans steps as long as fewer than the most are in flight and there is work. */
  tick(nowMicros: number): Actions {
    const actions = this.ofTick.clear()
    while (this.inFlight < this.plans.length && this.scheduler.hasWork) {
      const plan = this.planOf(this.nextStep)
      if (!this.scheduler.plan(plan, this.nextStep, nowMicros, actions)) break
      this.nextStep++
      this.inFlight++
      actions.plans.push(plan)
    }
    return actions
  }

  private planOf(stepId: number): StepPlan {
    return this.plans[stepId % this.plans.length]!
  }

  /** Throws InvariantViolation when the books do not balance. */
  checkIntegrity(): void {
    checkIntegrity(this.scheduler, this.config, [...this.scheduler.state.requests.values()])
  }

  /**
   * Why no more may wait of a tenant that has a name, or of its requests of a priority that the policy goes by, while others might
   * come; null where they may.
   */
  private crowding({ tenant = "", priority = 0, promptLength }: Submission): string | null {
    const { maxWaiting, maxWaitingTokens, policy } = this.config
    const { waiting, waitingTokens, state } = this.scheduler
    const own = state.tenants.of(tenant)
    if (own === undefined) return null
    const share = this.config.tenantShare ?? servingDefaults.tenantShare
    const crowds = (of: Level | undefined, whose: string, most: number, mostTokens: number): string | null => {
      if (of === undefined || of.waiting === 0) return null
      if (of.waiting >= most) {
        return `${of.waiting} requests of ${whose} are waiting, at most ${most} may while ${waiting.length} wait in all`
      }
      if (of.waitingTokens + promptLength > mostTokens) {
        return `${of.waitingTokens} prompt tokens of ${whose} are waiting, at most ${mostTokens} may while ${waitingTokens} wait in all`
      }
      return null
    }
    let requests = queueRoom(maxWaiting, waiting.length, share)
    let tokens = queueRoom(maxWaitingTokens, waitingTokens, share)
    if (tenant !== "") {
      const crowded = crowds(own, "this tenant", requests, tokens)
      if (crowded !== null) return crowded
      requests = queueRoom(requests, own.waiting, share)
      tokens = queueRoom(tokens, own.waitingTokens, share)
    }
    if (policy.byPriority !== true) return null
    return crowds(own.levels.of(priority), `this tenant and priority ${priority}`, requests, tokens)
  }

  /** How many requests of one tenant and one priority an empty queue takes. */
  mostAlike(tenant: string): number {
    const { maxWaiting, policy, tenantShare = servingDefaults.tenantShare } = this.config
    return queueRoomAlone(maxWaiting, Number(tenant !== "") + Number(policy.byPriority === true), tenantShare)
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

  /** Ends those whose token is their last. */
  private endAnswered(actions: ActionList): void {
    const { tokens } = actions
    for (let i = 0; i < tokens.last.length; i++) {
      const at = tokens.last.data[i]!
      this.end(tokens.requests[at]!, (tokens.flags.data[at]! & TokenFlag.stop) !== 0 ? "stop" : "length", actions)
    }
  }

  /** Ends those that the executor could sample no token for; nobody else is concerned. */
  private endFailed({ failures }: StepResult, actions: ActionList): void {
    for (let i = 0; i < failures.length; i += 2) {
      const request = this.scheduler.requestAt(failures.data[i]!)
      if (request !== null && request.endReason === null) this.end(request, "error", actions, failures.data[i + 1])
    }
  }

  private endFromOutside(id: number, reason: FinishReason): Actions {
    const actions = new ActionList()
    const request = this.scheduler.state.requests.get(id)
    if (request === undefined || request.endReason !== null) return actions
    this.end(request, reason, actions)
    this.scheduler.settle(actions)
    return actions
  }

  private end(request: Request, reason: FinishReason, actions: ActionList, failure = 0): void {
    request.endReason = reason
    if (!request.flight.forking) {
      for (const fork of request.forks.slice()) {
        if (fork.endReason === null) this.end(fork, reason, actions, failure)
      }
    }
    if (request.slot < 0) actions.forgets.push(request.contentId)
    actions.finished.push({ request, reason, failure })
    this.scheduler.leave(request)
  }
}
