import { Effect, Layer } from "effect"
import { Executor, ExecutorError } from "./Executor.ts"
import { NaiveRunner, type NaiveRunnerOptions } from "./NaiveRunner.ts"

/** The Executor service over a {@link NaiveRunner}: whole engines in tests, without a device and without files. */
export const layerNaive = (options: NaiveRunnerOptions): Layer.Layer<Executor> =>
  Layer.sync(Executor, () => fromRunner(new NaiveRunner(options)))

/** The service over a runner that the test also holds, to look at its memory. */
export const fromRunner = (runner: NaiveRunner): Executor["Service"] => ({
  info: runner.info,
  openSlot: (content) => attempt("open slot", () => runner.openSlot(content)),
  closeSlot: (slot) => attempt("close slot", () => runner.closeSlot(slot)),
  step: (plan) => attempt("step", () => runner.step(plan)),
})

const attempt = <A>(operation: string, run: () => A): Effect.Effect<A, ExecutorError> =>
  Effect.try({
    try: run,
    catch: (error) =>
      error instanceof ExecutorError
        ? error
        : new ExecutorError({ reason: "Internal", operation, detail: String(error) }),
  })
