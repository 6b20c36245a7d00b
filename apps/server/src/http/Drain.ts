import { Engine } from "@uniprefill/engine/Engine"
import { Effect, Fiber, Option } from "effect"

/**
 * Never completes; when interrupted (SIGTERM, Ctrl-C) refuses new requests and gives those that run `seconds` to finish.
 * What still runs after that is aborted as the layers close.
 */
export const untilDrained = (seconds: number): Effect.Effect<never, never, Engine> =>
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
      if (Option.isSome(drained)) return
      const left = yield* engine.status
      yield* Effect.logWarning("not drained in time: requests are cut off").pipe(
        Effect.annotateLogs({ running: left.running, waiting: left.waiting }),
      )
    })
    // On a fiber of its own, which the signal has not interrupted.
    const onSignal = Effect.flatMap(Effect.forkDetach(Effect.interruptible(drain)), Fiber.await)
    return yield* Effect.onInterrupt(Effect.never, () => Effect.asVoid(onSignal))
  })
