import { Engine } from "@uniprefill/engine/Engine"
import { Effect, Fiber, Option } from "effect"

/** After the deadline: time in which clients are told that their answers end here, in ms. */
const tellMs = 250

/** After the deadline: when the process ends whatever still holds it, a hung device for one, in ms. */
const overdueMs = 900

/**
 * Never completes; when interrupted (SIGTERM, Ctrl-C) refuses new requests and gives those that run `seconds` to finish.
 * What still runs after that is told: streams end with `finish_reason: "abort"`, others get a 503. `overdue` is called
 * where the server has not ended a second after the deadline.
 */
export const untilDrained = (seconds: number, overdue: () => void): Effect.Effect<never, never, Engine> =>
  Effect.gen(function* () {
    const engine = yield* Engine
    const drain = Effect.gen(function* () {
      const { running, waiting } = yield* engine.status
      if (running + waiting > 0) {
        yield* Effect.logInfo("draining: a second signal stops at once").pipe(
          Effect.annotateLogs({ running, waiting, seconds }),
        )
      }
      const drained = yield* Effect.timeoutOption(engine.drain, seconds * 1000)
      yield* Effect.sync(() => setTimeout(overdue, overdueMs).unref())
      if (Option.isSome(drained)) return
      const left = yield* engine.status
      yield* Effect.logWarning("not drained in time: requests are ended").pipe(
        Effect.annotateLogs({ running: left.running, waiting: left.waiting }),
      )
      yield* engine.abortAll
      yield* Effect.sleep(tellMs)
    })
    // On a fiber of its own, which the signal has not interrupted.
    const onSignal = Effect.flatMap(Effect.forkDetach(Effect.interruptible(drain)), Fiber.await)
    return yield* Effect.onInterrupt(Effect.never, () => Effect.asVoid(onSignal))
  })
