import type { Executor, ExecutorError, RequestContent } from "@uniprefill/executor/contract/Executor"
import type { StepPlan } from "@uniprefill/scheduler/StepPlan"
import type { StepResult } from "@uniprefill/scheduler/StepResult"
import { Cause, Effect, Exit, Latch } from "effect"

/** What the loop over an executor is about. Everything is synchronous, and whole between any two calls. */
export interface ExecutorClient {
  /** The next steps, in order; none when nothing is to be done, or as many are in flight as may be. */
  readonly plan: () => ReadonlyArray<StepPlan>
  /** The oldest step has been answered. */
  readonly stepDone: (result: StepResult) => void
  /** The oldest step has failed, and those behind it with it. */
  readonly stepFailed: () => void
}

type Order =
  | {
      readonly _tag: "Put"
      readonly id: number
      readonly content: () => RequestContent
      readonly done: (exit: Exit.Exit<void, ExecutorError>) => void
    }
  | { readonly _tag: "Forget"; readonly id: number }

/**
 * Hands steps to an executor while others run, and takes their results in order. Two fibers: one stores contents, plans and
 * enqueues, one waits for results; so a step that has ended is planned after at once, and a prompt that comes while a step
 * runs is checked and planned beside it.
 *
 * Contents are stored before anything is planned, so that a plan never opens one that the executor has refused.
 */
export class ExecutorLoop {
  /** Failures since the last step that succeeded, and what the last one was. */
  failures = 0
  lastFailure: string | null = null
  private readonly executor: Executor["Service"]
  private readonly client: ExecutorClient
  private readonly orders: Array<Order> = []
  private readonly work = Latch.makeUnsafe(false)
  private unanswered = 0
  private readonly answers = Latch.makeUnsafe(false)

  constructor(executor: Executor["Service"], client: ExecutorClient) {
    this.executor = executor
    this.client = client
  }

  /** Something has changed: there may be steps to plan. Plans may be made within the call: it comes last in a change. */
  wake(): void {
    this.work.openUnsafe()
  }

  /** Stores a content before the next plan is made, once {@link wake} is called. `done` is told whether the executor took it. */
  put(id: number, content: () => RequestContent, done: (exit: Exit.Exit<void, ExecutorError>) => void): void {
    this.orders.push({ _tag: "Put", id, content, done })
  }

  forget(id: number): void {
    this.orders.push({ _tag: "Forget", id })
  }

  /** Runs until interrupted. Fails when the executor is lost. Whether a step under way is waited for is the executor's to say. */
  readonly run: Effect.Effect<never, ExecutorError> = Effect.suspend(() =>
    Effect.raceAllFirst([this.planning, this.answering, this.executor.lost]),
  )

  private readonly planning: Effect.Effect<never, ExecutorError> = Effect.gen({ self: this }, function* () {
    while (true) {
      this.work.closeUnsafe()
      yield* this.carryOut
      const plans = this.client.plan()
      if (plans.length === 0) {
        yield* this.work.await
        continue
      }
      // Contents of requests that start over.
      yield* this.carryOut
      for (const plan of plans) {
        yield* this.executor.enqueue(plan)
        this.unanswered++
      }
      this.answers.openUnsafe()
    }
  })

  private readonly answering: Effect.Effect<never> = Effect.gen({ self: this }, function* () {
    while (true) {
      yield* this.answers.await
      const exit = yield* Effect.exit(this.executor.nextResult)
      if (Exit.isSuccess(exit)) {
        this.unanswered--
        this.failures = 0
        this.client.stepDone(exit.value)
      } else {
        this.unanswered = 0
        yield* this.record(exit.cause)
        this.client.stepFailed()
      }
      if (this.unanswered === 0) this.answers.closeUnsafe()
      this.wake()
      // An executor that never suspends would keep readers from running.
      yield* Effect.yieldNow
    }
  })

  private readonly carryOut: Effect.Effect<void> = Effect.gen({ self: this }, function* () {
    for (let order = this.orders.shift(); order !== undefined; order = this.orders.shift()) {
      if (order._tag === "Forget") yield* this.executor.forgetContent(order.id)
      else order.done(yield* Effect.exit(this.executor.putContent(order.id, order.content())))
    }
  })

  private record(cause: Cause.Cause<ExecutorError>): Effect.Effect<void> {
    this.failures++
    this.lastFailure = describe(cause)
    return Effect.logError("The executor failed", this.lastFailure).pipe(
      Effect.annotateLogs({ failures: this.failures }),
    )
  }
}

export const describe = (cause: Cause.Cause<ExecutorError>): string => {
  const error = Cause.squash(cause)
  return error instanceof Error ? error.message : String(error)
}
