import type { Executor, ExecutorError, SlotContent } from "@uniprefill/executor/Executor"
import type { RecordedEvent } from "@uniprefill/executor/recording/Recording"
import { RecordingDriver } from "@uniprefill/executor/recording/RecordingDriver"
import { Driver, type DriverConfig, type DriverSink } from "@uniprefill/scheduler/Driver"
import type { FinishReason, Request, Submission } from "@uniprefill/scheduler/Request"
import { sectionWidths, ItemField, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import { SelectionFlag, type StepResult, TokenFlag } from "@uniprefill/scheduler/StepResult"
import { Cause, Effect, Exit, Latch } from "effect"
import { EngineError, type EngineStatus, type GenerateRequest } from "./Engine.ts"
import type { EngineMetrics } from "./EngineMetrics.ts"
import type { Generation } from "./Generation.ts"
import { type PrefixEvent, PrefixEvents } from "./PrefixEvents.ts"

export interface ServingLoopOptions {
  readonly driver: DriverConfig
  readonly executor: Executor["Service"]
  readonly metrics: EngineMetrics
  /** Takes everything that the loop is told and decides, where that is recorded. */
  readonly record?: ((event: RecordedEvent) => void) | undefined
  /** Takes what changes in the prefix cache. */
  readonly prefixEvents?: ((event: PrefixEvent) => void) | undefined
  /** Integer µs, never going back. */
  readonly now: () => number
  /** Executor failures in a row after which the engine is unhealthy. */
  readonly maxFailures: number
  /** Output tokens that a reader may leave unread. */
  readonly maxUnreadTokens: number
}

type Action =
  | { readonly _tag: "Open"; readonly content: SlotContent }
  | { readonly _tag: "Close"; readonly slot: number }
  | { readonly _tag: "Step"; readonly plan: StepPlan }

/**
 * The Driver with its shell: what the Driver asks for is carried out by the executor, one call at a time and in order;
 * what the executor returns becomes output of generations.
 *
 * Everything but {@link run} is synchronous, so that the books are whole between any two calls. Effects are made per step
 * and per slot, not per token.
 */
export class ServingLoop {
  readonly driver: Driver
  draining = false
  /** Open once nothing is running or waiting. */
  readonly idle = Latch.makeUnsafe(true)
  private readonly options: ServingLoopOptions
  private readonly generations = new Map<number, Generation>()
  /** How many answers of each request have not ended. */
  private readonly requestIds = new Map<string, number>()
  /** Generations by slot, from the plan that opens it to its closing. */
  private readonly bySlot: Array<Generation | undefined> = []
  /** Slots that the executor has open. */
  private readonly openSlots = new Set<number>()
  private readonly actions: Array<Action> = []
  private readonly work = Latch.makeUnsafe(false)
  /** Generations that got a token, or ended, since {@link publish}. */
  private readonly touched = new Set<Generation>()
  /** Those whose readers are to be told in the next microtask. */
  private readonly toTell = new Set<Generation>()
  private telling = false
  /** When work last moved: a commit, a failure, or the first request after an idle time. */
  private progressMicros = 0
  private failures = 0
  private lastFailure: string | null = null
  /** Set when the loop cannot go on: a broken invariant, or the engine's end. */
  private halted: string | null = null

  constructor(options: ServingLoopOptions) {
    this.options = options
    this.driver =
      options.record === undefined
        ? new Driver(options.driver, this.sink)
        : new RecordingDriver(options.driver, this.sink, options.record)
    const { prefixEvents } = options
    if (prefixEvents === undefined) return
    const { pageSize } = options.driver.layout
    const listener = new PrefixEvents(pageSize, (request) => this.generations.get(request.id), prefixEvents)
    this.driver.scheduler.memory.prefixes.listener = listener
  }

  /**
   * Queues a request whose answers will be `generations`; returns why not otherwise, and nothing of it is queued then.
   * `pageKeys` are those of the prompt's full pages.
   */
  submit(
    request: GenerateRequest,
    generations: ReadonlyArray<Generation>,
    pageKeys: ReadonlyArray<string> | undefined,
  ): EngineError | null {
    const closed = this.closed()
    if (closed !== null) return closed
    if (this.requestIds.has(request.requestId)) {
      return refuse("InvalidRequest", "request_id", `a request with the id ${request.requestId} is running`)
    }
    const now = this.options.now()
    const { prompt, maxTokens, drop, priority, tenant, firstTokenWithinMicros } = request
    const submission: Submission = {
      promptLength: prompt.length,
      maxTokens,
      drops: drop,
      priority,
      tenant,
      deadlineMicros: firstTokenWithinMicros === undefined ? undefined : now + firstTokenWithinMicros,
      pageKeys,
    }
    const leaders = this.queue(submission, generations.length, now)
    if (leaders instanceof EngineError) return leaders
    if (this.generations.size === 0) this.progressMicros = now
    let answer = 0
    for (const leader of leaders) {
      for (const scheduled of [leader, ...leader.forks]) {
        const generation = generations[answer++]!
        generation.scheduled = scheduled
        generation.leader = leader
        this.generations.set(scheduled.id, generation)
      }
    }
    this.requestIds.set(request.requestId, generations.length)
    this.options.metrics.started(generations.length)
    this.idle.closeUnsafe()
    this.wake()
    return null
  }

  /**
   * Queues so many answers as one request, or in halves, quarters … where slots or memory could never hold them all at a
   * time: those that come later find the prompt in the cache. Returns the first answer of each part.
   */
  private queue(submission: Submission, answers: number, now: number): ReadonlyArray<Request> | EngineError {
    const leaders: Array<Request> = []
    let together = answers
    for (let queued = 0; queued < answers;) {
      const count = Math.min(together, answers - queued)
      const outcome = this.driver.submit({ ...submission, answers: count }, now)
      if (outcome._tag === "Queued") {
        leaders.push(outcome.request)
        queued += count
        continue
      }
      if (outcome._tag === "TooLong" && together > 1) {
        together = Math.ceil(together / 2)
        continue
      }
      for (const { id } of leaders) this.driver.abort(id)
      if (outcome._tag === "QueueFull") return refuse("QueueFull", null, outcome.detail)
      const field = submission.promptLength >= this.options.driver.maxModelLen ? "prompt" : "max_tokens"
      return refuse("TooLong", field, outcome.detail)
    }
    return leaders
  }

  /** Why `requests` requests with `promptTokens` prompt tokens in all cannot be queued together; null if they can. */
  room(requests: number, promptTokens: number): EngineError | null {
    const closed = this.closed()
    if (closed !== null) return closed
    const { maxWaiting, maxWaitingTokens } = this.options.driver
    const { waiting, scheduler } = this.driver
    if (waiting + requests > maxWaiting) {
      const reason = requests > maxWaiting ? "TooLong" : "QueueFull"
      return refuse(
        reason,
        null,
        `${waiting} requests are waiting and ${requests} more come, at most ${maxWaiting} may`,
      )
    }
    // As in the Driver: one prompt of any length may wait alone.
    if (scheduler.waitingTokens + promptTokens > maxWaitingTokens && waiting + requests > 1) {
      const reason = promptTokens > maxWaitingTokens && requests > 1 ? "TooLong" : "QueueFull"
      const detail = `${scheduler.waitingTokens} prompt tokens are waiting and ${promptTokens} more come, at most ${maxWaitingTokens} may`
      return refuse(reason, null, detail)
    }
    return null
  }

  /** Why nothing is taken any more; null while it is. */
  private closed(): EngineError | null {
    if (this.halted !== null) return refuse("Failed", null, this.halted)
    if (this.draining) return refuse("Draining", null, "the engine is shutting down and takes no new requests")
    return null
  }

  /** Ends an answer whose reader has gone. */
  abort(generation: Generation): void {
    if (generation.ended || this.halted !== null) return
    this.guard(() => this.driver.abort(generation.scheduled.id))
    this.publish()
    this.wake()
  }

  /** Ends every answer, whatever its reader does. */
  abortAll(): void {
    for (const generation of Array.from(this.generations.values())) this.abort(generation)
  }

  status(): EngineStatus {
    const { driver, options } = this
    const busy = this.generations.size > 0 && this.halted === null
    return {
      running: driver.running,
      waiting: driver.waiting,
      draining: this.draining,
      slabsUsed: driver.scheduler.memory.used,
      slabs: options.driver.slabs,
      stalledMicros: busy ? options.now() - this.progressMicros : 0,
      stepInFlight: driver.stepInFlight,
      healthy: this.halted === null && this.failures < options.maxFailures,
      failures: this.failures,
      lastFailure: this.halted ?? this.lastFailure,
    }
  }

  /** Carries out actions until interrupted. Whether a call under way is waited for is the executor's to say. */
  readonly run: Effect.Effect<never> = Effect.gen({ self: this }, function* () {
    while (true) {
      this.work.closeUnsafe()
      if (this.actions.length === 0) this.tick()
      const action = this.actions.shift()
      if (action === undefined) {
        yield* this.work.await
        continue
      }
      let suspended = false
      void Promise.resolve().then(() => {
        suspended = true
        // The executor is at work: with two steps in flight the next one is planned meanwhile.
        if (this.options.driver.maxStepsInFlight === 2) this.tick()
      })
      yield* this.perform(action)
      // An executor that never suspends would keep readers from running.
      if (!suspended) yield* Effect.yieldNow
    }
  })

  /** Fails every request: nothing is served any more. */
  halt(detail: string): void {
    if (this.halted !== null) return
    this.halted = detail
    this.actions.length = 0
    for (const generation of this.generations.values()) {
      generation.fail(new EngineError({ reason: "Failed", field: null, detail }))
      this.options.metrics.finished(generation, "error", false)
      this.touched.add(generation)
    }
    this.generations.clear()
    this.requestIds.clear()
    this.publish()
  }

  // ------------------------------------------------------------------------------------------------- executor

  private tick(): void {
    if (this.halted === null) this.guard(() => this.driver.tick(this.options.now()))
  }

  private perform(action: Action): Effect.Effect<void> {
    const { executor } = this.options
    switch (action._tag) {
      case "Open":
        return Effect.flatMap(Effect.exit(executor.openSlot(action.content)), (exit) => {
          if (Exit.isSuccess(exit)) this.openSlots.add(action.content.slot)
          else this.openFailure ??= exit.cause
          return Effect.void
        })
      case "Close":
        if (!this.openSlots.delete(action.slot)) return Effect.void
        return Effect.flatMap(Effect.exit(executor.closeSlot(action.slot)), (exit) =>
          Exit.isSuccess(exit) ? Effect.void : this.recordFailure(exit.cause),
        )
      case "Step": {
        if (this.openFailure !== undefined) {
          const cause = this.openFailure
          this.openFailure = undefined
          return this.stepFailed(cause)
        }
        return Effect.flatMap(Effect.exit(executor.step(action.plan)), (exit) => {
          if (Exit.isFailure(exit)) return this.stepFailed(exit.cause)
          this.stepDone(action.plan, exit.value)
          return Effect.void
        })
      }
    }
  }

  /** Why a slot that the next step needs could not be opened. */
  private openFailure: Cause.Cause<ExecutorError> | undefined

  private stepDone(plan: StepPlan, result: StepResult): void {
    const { metrics, now } = this.options
    this.progressMicros = now()
    this.failures = 0
    this.guard(() => {
      this.readLogprobs(result)
      const rows = firstSegmentRows(plan)
      this.driver.stepDone(result)
      let tokens = 0
      for (const generation of this.touched) {
        tokens += this.countTokens(generation)
        for (const key of generation.filledPageKeys()) this.driver.pageFilled(generation.scheduled.id, key)
      }
      metrics.step(rows, tokens)
    })
    this.publish()
  }

  private stepFailed(cause: Cause.Cause<ExecutorError>): Effect.Effect<void> {
    const recorded = this.recordFailure(cause)
    // Later steps fail with this one; slots that they would have opened stay closed.
    const closings = this.actions.filter((action) => action._tag === "Close")
    this.actions.splice(0, this.actions.length, ...closings)
    this.guard(() => this.driver.stepFailed())
    this.publish()
    return recorded
  }

  private recordFailure(cause: Cause.Cause<ExecutorError>): Effect.Effect<void> {
    this.failures++
    this.progressMicros = this.options.now()
    this.lastFailure = describe(cause)
    return Effect.logError("The executor failed", this.lastFailure).pipe(
      Effect.annotateLogs({ failures: this.failures, stepInFlight: this.driver.stepInFlight }),
    )
  }

  private readLogprobs(result: StepResult): void {
    const { data, length } = result.logprobs
    for (let i = 0; i < length;) {
      const generation = this.bySlot[data[i]!]
      const count = data[i + 1]!
      const entries: Array<readonly [number, number]> = []
      for (let n = 0; n < count; n++) {
        bits[0] = data[i + 3 + 2 * n]!
        entries.push([data[i + 2 + 2 * n]!, floats[0]!])
      }
      if (generation !== undefined) generation.stepLogprobs = entries
      i += 2 + 2 * count
    }
  }

  // --------------------------------------------------------------------------------------------------- driver

  private get sink(): DriverSink {
    return {
      openSlot: (request) => {
        const generation = this.of(request)
        this.bySlot[request.slot] = generation
        this.actions.push({ _tag: "Open", content: generation.content(this.options.driver.schedule) })
      },
      closeSlot: (slot) => {
        this.bySlot[slot] = undefined
        this.actions.push({ _tag: "Close", slot })
      },
      submit: (plan) => this.actions.push({ _tag: "Step", plan }),
      token: (request, token, _index, flags) => this.onToken(this.of(request), token, flags),
      selected: (request, segment, _bitmap, kept, flags) => {
        const before = request.keptRows[segment]!
        this.options.metrics.selected(
          segment,
          before,
          kept,
          request.promptLength,
          (flags & SelectionFlag.fallback) !== 0,
        )
      },
      finished: (request, reason) => {
        // What was queued of a request that was then refused has no generation.
        const generation = this.generations.get(request.id)
        if (generation !== undefined) this.onFinished(generation, reason)
      },
    }
  }

  private of(request: Request): Generation {
    return this.generations.get(request.id)!
  }

  private onToken(generation: Generation, token: number, flags: number): void {
    if ((flags & TokenFlag.nonFinite) !== 0) {
      const detail = `the logits of output token ${generation.outputs.length} hold a NaN or an infinity`
      generation.corrupt = true
      generation.fail(new EngineError({ reason: "Failed", field: null, detail }))
    } else {
      if (generation.firstTokenMicros < 0) generation.firstTokenMicros = this.progressMicros
      if (generation.accept(token, flags)) {
        this.driver.finish(generation.scheduled.id, generation.outputs.length)
      }
    }
    this.touched.add(generation)
  }

  private onFinished(generation: Generation, reason: FinishReason): void {
    const { requestId } = generation.request
    const left = this.requestIds.get(requestId)! - 1
    if (left > 0) this.requestIds.set(requestId, left)
    else this.requestIds.delete(requestId)
    this.generations.delete(generation.scheduled.id)
    this.touched.add(generation)
    if (reason === "error") {
      const detail = this.lastFailure ?? "the executor failed"
      generation.fail(new EngineError({ reason: "Failed", field: null, detail }))
    } else generation.complete(reason, this.options.now())
    this.options.metrics.finished(generation, generation.finished?.reason ?? reason, left === 0)
  }

  /** Measures the tokens that a generation took in this step, and returns how many they are. */
  private countTokens(generation: Generation): number {
    const tokens = generation.fresh
    if (tokens === 0) return 0
    if (generation.lastTokenMicros < 0) this.options.metrics.firstToken(generation)
    else this.options.metrics.nextTokens(this.progressMicros - generation.lastTokenMicros, tokens)
    generation.lastTokenMicros = this.progressMicros
    generation.fresh = 0
    return tokens
  }

  /** Takes stock after a change: gives up readers that left too much unread, and sees that readers are told what is new. */
  private publish(): void {
    const { maxUnreadTokens } = this.options
    for (const generation of this.touched) {
      this.toTell.add(generation)
      if (generation.unreadTokens > maxUnreadTokens && !generation.ended && !generation.waitedFor) {
        const detail = `${generation.unreadTokens} output tokens have not been read; the limit is ${maxUnreadTokens}`
        generation.fail(new EngineError({ reason: "SlowReader", field: null, detail }))
        this.guard(() => this.driver.abort(generation.scheduled.id))
      }
    }
    this.touched.clear()
    if (this.halted === null) {
      // Nothing is owned when nothing runs; a leak stops the engine here rather than starving it later.
      if (this.driver.running + this.driver.waiting === 0) this.guard(() => this.driver.checkIntegrity())
    }
    // Readers run as fibers of their own, once the executor is at work again and never in the middle of a change here.
    if (this.telling) return
    this.telling = true
    void Promise.resolve().then(() => {
      this.telling = false
      const told = [...this.toTell]
      this.toTell.clear()
      for (const generation of told) generation.publish()
      if (this.generations.size === 0) this.idle.openUnsafe()
    })
  }

  private wake(): void {
    this.work.openUnsafe()
  }

  /** A broken invariant means that the books cannot be trusted: nothing is served from them. */
  private guard(change: () => void): void {
    try {
      change()
    } catch (cause) {
      this.halt(`the engine stopped: ${cause instanceof Error ? cause.message : String(cause)}`)
    }
  }
}

const refuse = (reason: EngineError["reason"], field: string | null, detail: string) =>
  new EngineError({ reason, field, detail })

/** Prompt rows that the plan computes in the first segment: rows of later segments are the same tokens again. */
const firstSegmentRows = (plan: StepPlan): number => {
  const { data, length } = plan.items
  let rows = 0
  for (let i = 0; i < length; i += sectionWidths.items) {
    if (data[i + ItemField.firstSegment] === 0) rows += data[i + ItemField.rows]!
  }
  return rows
}

const describe = (cause: Cause.Cause<ExecutorError>): string => {
  const error = Cause.squash(cause)
  return error instanceof Error ? error.message : String(error)
}

const floats = new Float32Array(1)
const bits = new Int32Array(floats.buffer)
