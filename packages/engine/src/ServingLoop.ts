import type { Executor, ExecutorError } from "@uniprefill/executor/contract/Executor"
import type { RecordedEvent } from "@uniprefill/recording/Recording"
import { RecordingDriver } from "@uniprefill/recording/RecordingDriver"
import type { Actions } from "@uniprefill/scheduler/Actions"
import { Driver, type DriverConfig } from "@uniprefill/scheduler/Driver"
import { ItemField, sectionWidths, type StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { type Effect, Exit, Latch } from "effect"
import { Admission, Admitted } from "./Admission.ts"
import { EngineError, type EngineStatus, type GenerateRequest } from "./Engine.ts"
import type { EngineMetrics } from "./EngineMetrics.ts"
import { describe, ExecutorLoop } from "./ExecutorLoop.ts"
import type { Generation } from "./Generation.ts"
import { type PrefixEvent, PrefixEvents } from "./PrefixEvents.ts"
import { Publication } from "./Publication.ts"

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
  /** Readers are told of output at most once in so many ms, but for first tokens and ends. */
  readonly streamIntervalMs: number
}

/**
 * The Driver with its shell: `Admission` takes requests, `ExecutorLoop` has their steps carried out, `Publication` makes
 * output of what those bring. Here the Driver's actions are handed on.
 *
 * Everything but {@link run} is synchronous, so that the books are whole between any two calls. Effects are made per step
 * and per request, not per token.
 */
export class ServingLoop {
  readonly driver: Driver
  /** Open once nothing is running or waiting. */
  readonly idle = Latch.makeUnsafe(true)
  private readonly options: ServingLoopOptions
  private readonly admission: Admission
  private readonly executor: ExecutorLoop
  private readonly publication: Publication
  private readonly admitted = new Set<Admitted>()
  /** Of each step in flight: prompt rows that it computes in the first segment, −1 where it has no prefill at all. */
  private readonly promptRows: Array<number> = []
  /** When work last moved: a commit, a failure, or the first request after an idle time. */
  private progressMicros = 0

  constructor(options: ServingLoopOptions) {
    const { driver, record, metrics, maxUnreadTokens, streamIntervalMs } = options
    this.options = options
    this.driver = record === undefined ? new Driver(driver) : new RecordingDriver(driver, record)
    this.admission = new Admission(this.driver, driver)
    this.publication = new Publication({
      metrics,
      maxUnreadTokens,
      streamIntervalMs,
      ended: (generation) => this.admission.ended(generation),
      told: () => {
        if (this.publication.size === 0) this.idle.openUnsafe()
      },
    })
    this.executor = new ExecutorLoop(options.executor, {
      plan: () => this.plan(),
      stepDone: (result) => this.stepDone(result),
      stepFailed: () => this.stepFailed(),
    })
    const { prefixEvents } = options
    if (prefixEvents === undefined) return
    const { pageSize } = driver.layout
    const listener = new PrefixEvents(pageSize, (request) => this.publication.of(request), prefixEvents)
    this.driver.scheduler.memory.prefixes.listener = listener
  }

  /** Carries out steps until interrupted. Fails when the executor is lost. */
  get run(): Effect.Effect<never, ExecutorError> {
    return this.executor.run
  }

  /** Takes no new requests from now on. */
  drain(): void {
    this.admission.draining = true
  }

  /**
   * Queues a request whose answers will be `generations`, and has their contents stored; an error says why not, and nothing
   * of it is queued then. `pageKeys` are those of the prompt's full pages.
   */
  submit(
    request: GenerateRequest,
    generations: ReadonlyArray<Generation>,
    pageKeys: ReadonlyArray<string> | undefined,
  ): Admitted | EngineError {
    const now = this.options.now()
    const refusal = this.admission.submit(request, generations, pageKeys, now)
    if (refusal !== null) return refusal
    if (this.publication.size === 0) this.progressMicros = now
    const admitted = new Admitted(generations.length)
    this.admitted.add(admitted)
    for (const generation of generations) {
      this.publication.add(generation)
      this.put(generation, (exit) => {
        // One answer that the executor refuses is the end of all of them.
        if (admitted.decide(exit)) for (const one of generations) this.abort(one)
        this.admitted.delete(admitted)
      })
    }
    this.options.metrics.started(generations.length, request.tenant ?? "")
    this.idle.closeUnsafe()
    this.executor.wake()
    return admitted
  }

  room(requests: number, promptTokens: number, tenant = ""): EngineError | null {
    return this.admission.room(requests, promptTokens, tenant)
  }

  /** Ends an answer whose reader has gone. */
  abort(generation: Generation): void {
    if (generation.ended || this.isHalted) return
    this.guard(() => this.perform(this.driver.abort(generation.scheduled.id)))
    this.settle()
    this.executor.wake()
  }

  /** Ends every answer, whatever its reader does. */
  abortAll(): void {
    for (const generation of this.publication.running()) this.abort(generation)
  }

  status(): EngineStatus {
    const { driver, options, executor, admission } = this
    const busy = this.publication.size > 0 && !this.isHalted
    return {
      running: driver.running,
      waiting: driver.waiting,
      draining: admission.draining,
      slabsUsed: driver.scheduler.memory.used,
      slabs: options.driver.slabs,
      stalledMicros: busy ? options.now() - this.progressMicros : 0,
      stepInFlight: driver.stepInFlight,
      healthy: !this.isHalted && executor.failures < options.maxFailures,
      failures: executor.failures,
      lastFailure: admission.halted ?? executor.lastFailure,
    }
  }

  /** Fails every request: nothing is served any more. */
  halt(detail: string): void {
    if (this.isHalted) return
    this.admission.halted = detail
    this.publication.failAll(detail)
    for (const admitted of this.admitted) admitted.giveUp(detail)
    this.admitted.clear()
    this.publication.settle()
  }

  private get isHalted(): boolean {
    return this.admission.halted !== null
  }

  // ------------------------------------------------------------------------------------------------- executor

  private plan(): ReadonlyArray<StepPlan> {
    if (this.isHalted) return []
    let plans: ReadonlyArray<StepPlan> = []
    this.guard(() => {
      const actions = this.driver.tick(this.options.now())
      this.perform(actions)
      plans = actions.plans
      for (const plan of plans) this.promptRows.push(plan.items.length === 0 ? -1 : firstSegmentRows(plan))
    })
    return this.isHalted ? [] : plans
  }

  private stepDone(result: StepResult): void {
    const { metrics, now } = this.options
    if (this.isHalted) return
    this.progressMicros = now()
    this.guard(() => {
      const { selectionMicros } = result
      for (let i = 2; i < selectionMicros.length; i += 3) metrics.selectionTook(selectionMicros.data[i]!)
      this.publication.readLogprobs(result, (slot) => this.driver.scheduler.requestAt(slot))
      this.perform(this.driver.stepDone(result))
      const tokens = this.publication.countTokens(this.progressMicros)
      for (const generation of this.publication.changed) {
        for (const key of generation.filledPageKeys()) this.driver.pageFilled(generation.scheduled.id, key)
      }
      const rows = this.promptRows.shift()!
      // A step that only closes slots is none to people.
      if (rows >= 0 || result.tokens.length > 0) metrics.step(Math.max(0, rows), tokens)
    })
    this.settle()
  }

  private stepFailed(): void {
    if (this.isHalted) return
    this.progressMicros = this.options.now()
    this.promptRows.length = 0
    this.guard(() => this.perform(this.driver.stepFailed()))
    this.settle()
  }

  // --------------------------------------------------------------------------------------------------- driver

  private perform({ selections, tokens, finished, forgets, puts }: Actions): void {
    const { publication, executor } = this
    publication.selected(selections)
    const stopped = publication.accept(tokens, this.progressMicros)
    publication.finished(finished, executor.lastFailure, this.options.now())
    for (const id of forgets) executor.forget(id)
    for (const request of puts) {
      const generation = publication.of(request)
      if (generation !== undefined) this.putAgain(generation)
    }
    for (const generation of stopped) this.perform(this.driver.finish(generation.scheduled.id))
  }

  private put(generation: Generation, done: (exit: Exit.Exit<void, ExecutorError>) => void): void {
    const { schedule, sloP } = this.options.driver
    this.executor.put(generation.scheduled.contentId, () => generation.content(schedule, sloP), done)
  }

  /** A preempted request starts over with the output that it has; one that is lowered starts at a lower p. */
  private putAgain(generation: Generation): void {
    this.put(generation, (exit) => {
      if (Exit.isSuccess(exit)) return
      generation.fail(new EngineError({ reason: "Failed", field: null, detail: describe(exit.cause) }))
      this.guard(() => this.perform(this.driver.abort(generation.scheduled.id)))
      this.settle()
    })
  }

  /** Takes stock after a change. */
  private settle(): void {
    for (const { scheduled } of this.publication.settle()) {
      this.guard(() => this.perform(this.driver.abort(scheduled.id)))
    }
    // Nothing is owned when nothing runs; a leak stops the engine here rather than starving it later.
    if (!this.isHalted && this.driver.running + this.driver.waiting === 0) {
      this.guard(() => this.driver.checkIntegrity())
    }
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

/** Prompt rows that the plan computes in the first segment: rows of later segments are the same tokens again. */
const firstSegmentRows = (plan: StepPlan): number => {
  const { data, length } = plan.items
  let rows = 0
  for (let i = 0; i < length; i += sectionWidths.items) {
    if (data[i + ItemField.firstSegment] === 0) rows += data[i + ItemField.rows]!
  }
  return rows
}
